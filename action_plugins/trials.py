"""The controller's loop over slices of trials: fetches and stores records, and shows one line per finished trial."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

PROJECT = Path(__file__).resolve().parent.parent
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    # Modules find the project's code by ansible.cfg; plugins, which run in Ansible's own process, do not.
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

from ansible.module_utils.onecopy import progress, run_directory

RECONNECT_SECONDS = 5
display = Display()


class ActionModule(ActionBase):
    """One task, one run: started or gone on with, then worked slice by slice."""

    _supports_check_mode = False
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the whole plan; the task's result says how many trials ended how, and where the records are."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if result.get("skipped"):
            return result
        self.task_vars = task_vars or {}
        self.host = str(self.task_vars["inventory_hostname"])
        arguments = self._task.args
        self.plan = arguments["plan"]
        reports = Path(arguments["reports_directory"]).resolve()
        self.common = {"host": self.host, "state_directory": arguments.get("state_directory", "/var/lib/onecopy")}
        try:
            claim = run_directory.claim(reports, self.plan["experiment"], self.host)
            try:
                return result | self._work_on(reports)
            finally:
                os.close(claim)
        except run_directory.RunDirectoryError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            place = error.filename or reports
            raise AnsibleActionFail(
                f"{place}: {error.strerror or error}: what {self.host} has finished is stored there: mend it, and run the same command to go on"
            ) from error

    def _work_on(self, reports: Path) -> dict[str, Any]:
        """The run that goes on or begins, to its end; what the task's result says of it."""
        arguments = self._task.args
        run, is_old = run_directory.find_or_start(
            reports,
            self.plan,
            [str(host) for host in self.task_vars.get("ansible_play_hosts", [self.host])],
            PROJECT,
            now=datetime.now(UTC),
            is_repeated=boolean(arguments.get("repeated", True)),
        )
        self.common["run_id"] = run.run_id
        if is_old and run.is_finished():
            display.display(f"{self.host}  run {run.run_id} of this plan is finished: {run.path}")
            return {"changed": False, **self._end(run)}
        for line in progress.plan_lines(self.plan):
            display.display(f"{self.host}  {line}")
        if is_old and run.done(self.host):
            display.display(f"{self.host}  going on with run {run.run_id}: {len(run.done(self.host))} trials are done")
        try:
            started = self._call("start", plan=self.plan)
        except AnsibleActionFail:
            run.discard_if_empty()
            raise
        run.update_host(self.host, lambda entry: entry.update(started["facts"]))
        self._work(run, int(arguments.get("slice_seconds", 20)))
        self._call("finish")
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        run.update_host(self.host, lambda entry: entry.update(finished_at=stamp))
        return {"changed": True, **self._end(run)}

    def _work(self, run: run_directory.RunDirectory, seconds: int) -> None:
        """Slices until nothing remains; an adaptive run repeat by repeat."""
        before = run.done(self.host)
        began, lines = time.monotonic(), 0
        leave_out, needless, _ = self._decide(run)
        while True:
            answer = self._call("work", slice_seconds=seconds, skip=lines, leave_out=sorted(leave_out))
            lines = answer["lines"]
            fresh = run.add_records(self.host, answer["records"])
            if answer["boots"]:
                run.update_host(
                    self.host, lambda entry, boots=answer["boots"]: entry.setdefault("boots", []).extend(boots)
                )
            done = run.done(self.host)
            leave_out, needless, is_open = self._decide(run)
            is_over = not is_open and not answer["remaining"]
            total = len(self.plan["trials"]) - len(needless)
            worked = time.monotonic() - began
            left = progress.left_seconds(self.plan, done, worked, done - before, needless)
            for position, record in enumerate(fresh, start=len(done) - len(fresh) + 1):
                shown = left if position == len(done) and not is_over else None
                display.display(progress.trial_line(self.host, position, total, record, shown))
            if is_over:
                return

    def _decide(self, run: run_directory.RunDirectory) -> tuple[frozenset[str], frozenset[str], bool]:
        """Blocks to leave out of the next slice, trials that are not needed at all, and whether anything but what the host knows is left."""
        if "adaptive" not in self.plan:
            return frozenset(), frozenset(), False
        # It loads scipy: seconds that a fixed number of boots need not wait for.
        from ansible.module_utils.onecopy.analysis import adaptive  # noqa: PLC0415

        step = adaptive.next_step(self.plan, run.records(self.host))
        return step.leave_out, step.needless, step.is_open

    def _call(self, step: str, **arguments: Any) -> dict[str, Any]:
        """One step on the KVM host; one lost connection is survived, and said."""
        for is_last in (False, True):
            try:
                answer: dict[str, Any] = self._execute_module(
                    module_name="trials",
                    module_args={"step": step, **self.common, **arguments},
                    task_vars=self.task_vars,
                )
            except AnsibleConnectionFailure as error:
                answer = {"unreachable": True, "msg": str(error)}
            if answer.get("unreachable") and not is_last:
                display.warning(
                    f"{self.host}: connection lost ({_one_line(answer)}): trying once more in {RECONNECT_SECONDS} s"
                )
                time.sleep(RECONNECT_SECONDS)
                self._connection.close()
                continue
            break
        if answer.get("unreachable"):
            raise AnsibleActionFail(
                f"{self.host} cannot be reached ({_one_line(answer)}): no record is lost, run the same command to go on"
            )
        if answer.get("failed"):
            raise AnsibleActionFail(f"{self.host}: {_one_line(answer)}")
        return answer

    def _end(self, run: run_directory.RunDirectory) -> dict[str, Any]:
        """The last lines, and the task's result."""
        every = run.records(self.host)
        _, needless, _ = self._decide(run)
        for line in progress.last_lines(every, len(self.plan["trials"]) - len(needless), len(needless)):
            display.display(f"{self.host}  {line}")
        display.display(f"{self.host}  records: {run.results}")
        counts = {
            status: sum(record["status"] == status for record in every)
            for status in ("ok", "invalid", "failed", "timeout")
        }
        if not counts["ok"]:
            raise AnsibleActionFail(f"{self.host}: no trial was ok: see the reasons in {run.results}")
        return {"run_directory": str(run.path), "trials": counts}


def _one_line(answer: dict[str, Any]) -> str:
    """The module's message; where it broke down, its last words too."""
    message = " ".join(str(answer.get("msg", "")).split())
    last_words = str(answer.get("module_stderr", "")).strip().splitlines()[-1:]
    return ": ".join(part for part in (message, *last_words) if part)
