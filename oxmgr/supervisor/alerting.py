"""Hears of events, and has messages sent of those that somebody asked to be told of (oxmgr.lifecycle.alerts)."""

import time

from oxmgr import __version__
from oxmgr.lifecycle.alerts import Happened, Message, due, hear, summary, tick
from oxmgr.model.messages import Alert, Event, SendAlert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oxmgr.lifecycle.events import State
    from oxmgr.supervisor.instance import App, Instance
    from oxmgr.supervisor.loop import Loop, Timer
    from oxmgr.supervisor.messenger import Messenger

NAMES = 20
"""Instances that a message names; it counts the others."""


class Alerting:
    """`files` says where the stdout and stderr of an instance are."""

    def __init__(self, loop: "Loop", messenger: "Messenger", files: "Callable[[Instance], tuple[str, str]]") -> None:
        self._loop = loop
        self._messenger = messenger
        self._files = files
        self._timers: dict[App, Timer] = {}

    def hear(self, event: Event, instance: "Instance | None", state: "State | None") -> None:
        if instance is None or state is None:
            if event.kind in ("changed", "deleted"):
                self._messenger.forget(event.app)
            return
        app = instance.app
        if app.spec.alerts.webhook or app.spec.alerts.command:
            now = time.monotonic()
            app.alerting, messages = hear(app.alerting, Happened(event, state.restarts), app.spec, now)
            self._send(app, messages)

    def _tick(self, app: "App") -> None:
        del self._timers[app]
        app.alerting, messages = tick(app.alerting, time.monotonic())
        self._send(app, messages)

    def _send(self, app: "App", messages: list[Message]) -> None:
        for message in messages:
            for order in self._orders(app, message):
                self._messenger.send(app.spec.name, order)
        when = due(app.alerting)
        timer = self._timers.pop(app, None)
        if timer is not None:
            timer.cancel()
        if when is not None:
            self._timers[app] = self._loop.at(when, lambda: self._tick(app))

    def _orders(self, app: "App", message: Message) -> list[SendAlert]:
        """One to the webhook and one to the command, so that either may be tried again by itself."""
        spec, event = app.spec, message.last.event
        alert = Alert(
            text=summary(message),
            kind=message.kind,
            app=event.app,
            instance=event.instance,
            namespace=spec.namespace,
            host="",
            time="",
            seq=event.seq,
            reason=event.reason,
            exit_code=event.exit_code,
            signal=event.signal,
            restarts=message.last.restarts,
            count=message.count,
            instances=dict(list(message.counts.items())[-NAMES:]),
            stdout=[],
            stderr=[],
            version=__version__,
        )
        instance = next((one for one in app.instances.values() if one.name == event.instance), None)
        logs = list(self._files(instance)) if instance is not None and spec.logs.sink == "file" else []
        orders: list[SendAlert] = []
        alerts = spec.alerts
        if alerts.webhook:
            orders.append(SendAlert(alert, event.at, logs, webhook=alerts.webhook, headers=alerts.headers))
        if alerts.command:
            orders.append(SendAlert(alert, event.at, logs, command=alerts.command, working_dir=alerts.working_dir))
        return orders
