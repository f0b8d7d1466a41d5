"""What tells one boot from another."""

from oxmgr.supervisor.files import boot_id, is_same_boot
from oxmgr.supervisor.process import start_ticks


def test_a_boot_is_known_by_its_id_and_by_when_process_1_began() -> None:
    boot, _, ticks = boot_id().partition("/")
    assert len(boot) == 36 and int(ticks) == start_ticks(1)
    assert is_same_boot(boot_id(), boot_id())
    assert not is_same_boot(f"{boot}/7", f"{boot}/8")
    assert not is_same_boot("another/7", f"{boot}/7") and not is_same_boot("another", f"{boot}/7")


def test_where_process_1_cannot_be_seen_the_boot_decides() -> None:
    assert is_same_boot("boot", "boot/7") and is_same_boot("boot/7", "boot") and is_same_boot("boot", "boot")
