# SPDX-License-Identifier: LGPL-2.1-only
"""A plugin for pytest in dom0, so that one can always see why a run failed.

A failure is printed when it happens, not at the end, which may never come.  The test that runs is named in /out/test.  And
when the time is over, the summary and junit.xml are still written.
"""

import signal
from pathlib import Path

import pytest

CURRENT = Path("/out/test")


def pytest_configure(config: pytest.Config) -> None:
    def stop(number: int, frame: object) -> None:
        pytest.exit(f"no time left, in {CURRENT.read_text() if CURRENT.exists() else 'no test'}", returncode=124)

    signal.signal(signal.SIGTERM, stop)
    config.pluginmanager.register(_Reporter(config), "xlplug-progress")


class _Reporter:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        CURRENT.write_text(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.ensure_newline()
            terminal.section(f"{report.nodeid} ({report.when})", sep="_")
            terminal.line(report.longreprtext)
            for name, text in report.sections:
                terminal.section(name, sep="-")
                terminal.line(text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Everything has ended in time; failures need not be printed once more."""
        CURRENT.unlink(missing_ok=True)
        self.config.option.tbstyle = "no"
