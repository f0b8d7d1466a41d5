#!/bin/sh
# Runs inside the VM, as its only program: guest.sh REPOSITORY PYTHON_PREFIX RELEASE MODULES MARK SECONDS [pytest's arguments…]
# Writes pytest's output and its exit code into /run/out, the one folder that the host shares for writing.
repository=$1 prefix=$2 modules=$4 seconds=$6
export KERNEL_VM="$3" WRITTEN_IN_THE_GUEST="$5"
shift 6
exec </dev/null >/run/out/output 2>&1

# The root is mounted without a cache, and every import would ask the host anew: thrice the time. So the same root, which
# the host exports read-only once more, is mounted with one and laid over the folders that Python reads from.
set -e
umount /run/root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose virtme.initmount1 /run/root
mkdir -p /run/usr/upper /run/usr/work /run/tests
mount -t overlay -o lowerdir=/run/root/usr,upperdir=/run/usr/upper,workdir=/run/usr/work usr /usr
mkdir -p /usr/lib/modules
ln -sfn "$modules" "/usr/lib/modules/$KERNEL_VM"
for folder in "$prefix" "$repository"; do
    case $folder in
    /usr | /usr/*) ;;
    *) mount --bind "/run/root$folder" "$folder" ;;
    esac
done
# For users who may not look into the folders above: root's home is one on many machines.
mkdir -p /usr/for-all/python /usr/for-all/repository
mount --bind "$prefix" /usr/for-all/python
mount --bind "$repository" /usr/for-all/repository
set +e
busybox ifconfig lo up

cd "$repository" || exit
export HOME=/root LC_ALL=C.UTF-8 TMPDIR=/run/tests
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
# The host kills the VM at its deadline. This one is for when the host's program was killed itself.
timeout -k 5 "$seconds" .venv/bin/python -m pytest -p no:cacheprovider "$@"
echo $? >/run/out/exit
# Off at once: nothing here needs an orderly end, and what else could switch it off may not be installed.
echo o >/proc/sysrq-trigger
sleep 60
