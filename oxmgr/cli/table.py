"""Every command."""

from oxmgr.cli.parser import Command, Option

_JSON = Option("--json", "print JSON, and nothing else")
_CONFIG = Option("--config -c", "the oxfile to read", "FILE")
_ONLY = Option("--only", "only these apps of the file", "A,B")
_PROFILE = Option("--env", "with the values of these profiles", "PROFILE")
_DRY_RUN = Option("--dry-run", "show what would be done, and do nothing")
_FOLLOW = Option("--follow -f", "go on as more comes")

_TARGETS = "TARGET…"

COMMANDS = [
    Command(
        "start",
        "Start everything in the oxfile, an app by its name, a script, or a command line",
        words="[TARGET… | FILE | COMMAND]",
        most=None,
        rest=True,
        complete="targets files",
        options=[
            Option("--name", "what to call it", "NAME"),
            Option("--instances -i", "how many copies, or max", "N"),
            Option("--cwd", "where it runs", "FOLDER"),
            Option("--set -e", "a variable for it; may be given again", "KEY=VALUE", many=True),
            Option("--restart", "when it is restarted", "WHEN", choices="always on-failure never"),
            Option("--namespace", "a label to act on, as @NAME", "NAME"),
            _CONFIG,
            _ONLY,
            _PROFILE,
            _DRY_RUN,
            Option("--foreground", "stay here, show what the apps print, stop them at Ctrl-C"),
            _JSON,
        ],
        examples=[
            "oxmgr start                               everything in ./oxfile.toml",
            'oxmgr start "node server.js" --name api',
            "oxmgr start app.py -i 2 -- --port 8000",
            "oxmgr start api                           an app that is known",
        ],
    ),
    Command("stop", "Stop apps, and keep them stopped", words=_TARGETS, most=None, module="act", complete="targets", options=[_CONFIG, _JSON]),
    Command("restart", "Stop apps and start them again", words=_TARGETS, most=None, module="act", aliases="rs", complete="targets", options=[_CONFIG, _JSON]),
    Command("delete", "Stop apps and forget them; their logs stay", words=_TARGETS, most=None, module="act", aliases="del rm", complete="targets", options=[_CONFIG, _JSON]),
    Command(
        "apply",
        "Make what runs equal to the oxfile",
        words="[FILE…]",
        most=None,
        complete="files",
        options=[Option("--prune", "delete the apps that no file names"), _ONLY, _PROFILE, _DRY_RUN, _JSON],
        examples=["oxmgr apply --dry-run", "oxmgr apply web.toml jobs.toml --prune"],
    ),
    Command("list", "Show every instance", words="[TARGET…]", most=None, aliases="ls ps", complete="targets", options=[_JSON]),
    Command("status", "Show all there is to say of an app", words="[TARGET…]", most=None, aliases="show describe info", complete="targets", options=[_JSON]),
    Command(
        "logs",
        "Show what apps have printed",
        words="[TARGET…]",
        most=None,
        aliases="log",
        complete="targets",
        options=[
            _FOLLOW,
            Option("--lines -n", "how many, at the end (20; with --since, --until or --pager all), or all", "N"),
            Option("--since", "only what came then or later: 10m, yesterday, 'last tuesday', a date", "TIME"),
            Option("--until", "only what came then or before", "TIME"),
            Option("--grep -g", "only lines in which this regular expression is found", "PATTERN"),
            Option("--ignore-case -i", "for --grep: a is A"),
            Option("--level -l", "only lines of this level and above", "LEVEL", choices="trace debug info warn error fatal"),
            Option("--err", "only standard error"),
            Option("--out", "only standard output"),
            Option("--time -t", "show when each line came"),
            Option("--json", "print JSON, an object a line, and nothing else"),
            Option("--raw", "print the very bytes, and nothing else"),
            Option("--pager", "on a terminal: through $PAGER, or less"),
            Option("--flush", "empty the logs; rotated files stay"),
            Option("--reopen", "have the daemon open its log files anew, for who has renamed them"),
        ],
        examples=[
            "oxmgr logs api -f",
            "oxmgr logs -n 100 --err",
            "oxmgr logs api --since 'last tuesday' --level error",
            "oxmgr logs --since 2h --grep 'timed? out' -i --time",
        ],
    ),
    Command(
        "events",
        "Show what happened to apps",
        words="[TARGET…]",
        most=None,
        complete="targets",
        options=[
            _FOLLOW,
            Option("--lines -n", "how many, at the end (20; with --since all), or all", "N"),
            Option("--kind", "only of these kinds; may be given again", "KIND,…", many=True),
            Option("--since", "only what happened then or later: 10m, yesterday, 'last tuesday', a date", "TIME"),
            _JSON,
        ],
        examples=["oxmgr events -f --json", "oxmgr events api --kind crashed,oom --since yesterday"],
    ),
    Command("signal", "Send a signal to the main process of apps", words="SIGNAL TARGET…", least=2, most=None, complete="targets", options=[_JSON], examples=["oxmgr signal HUP api"]),
    Command("scale", "Set, or change by +N or -N, the number of an app's instances", words="NAME N", least=2, most=2, complete="targets", options=[_JSON], examples=["oxmgr scale api 4", "oxmgr scale api +1"]),
    Command("env", "Show the environment that an app gets", words="TARGET", least=1, most=1, complete="targets", options=[_JSON]),
    Command("reset", "Set the counters of apps back to zero", words=_TARGETS, least=1, most=None, module="act", complete="targets", options=[_JSON]),
    Command(
        "send",
        "Write a line to an app's standard input; - takes what comes on ours",
        words="TARGET TEXT|-",
        least=2,
        most=2,
        complete="targets",
        options=[Option("--raw", "add no newline")],
    ),
    Command("validate", "Check an oxfile, and start nothing", words="[FILE]", most=1, complete="files", options=[_ONLY, _PROFILE, _JSON]),
    Command("init", "Write an oxfile for this folder, from what is in it", options=[Option("--force", "overwrite the one that is there")]),
    Command("doctor", "Look for what could keep oxmgr from doing its work", options=[_JSON]),
    Command(
        "daemon",
        "Run the daemon here, stop it, replace it while its apps run, or say how it is",
        words="run|stop|reexec|status",
        least=1,
        most=1,
        complete="run stop reexec status",
        options=[Option("--group", "for run: a group whose members may use it too", "NAME"), _JSON],
    ),
    Command("completion", "Print the completion script of a shell", words="bash|zsh|fish", least=1, most=1, complete="bash zsh fish", examples=["oxmgr completion bash > /etc/bash_completion.d/oxmgr"]),
]  # fmt: skip
