"""`python -m lab.advisories`: does anything that is installed here have a known vulnerability? `make check` asks.

pip-audit asks PyPI, or whom its options name that follow: `--vulnerability-service osv --osv-url URL`,
`--ignore-vuln ID`. Where nobody answers, that is said and nothing fails: a machine without a network can be worked on.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any

AUDIT = ("-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
ANSWER_S = 5
NOT_REACHED = re.compile(r"requests\.exceptions\.|urllib3\.exceptions\.|vulnerability feed|not redirecting")
"""What pip-audit says when nobody answers, or what answers is no such service."""
OURS = "drover"


@dataclass(frozen=True)
class Answer:
    """What was said about some packages."""

    findings: Sequence[str]
    """One sentence for each known vulnerability."""
    unknown: Sequence[str]
    """Packages that nobody could tell anything of."""


def main(options: Sequence[str]) -> int:
    """Print what was found; 1 if that is a known vulnerability."""
    pins = sorted({f"{found.name}=={found.version}" for found in distributions() if found.name != OURS})
    if _asked(pins[:1], options).unknown:  # a hundred questions that nobody answers take a quarter of a minute
        print(f"advisories: nobody answers here, so {len(pins)} packages were not looked up; this is no failure")
        return 0
    answer = _asked(pins, options)
    print("\n".join(answer.findings) or f"advisories: none for {len(pins) - len(answer.unknown)} packages")
    if answer.unknown:
        print(f"advisories: not looked up, for nobody answered: {', '.join(answer.unknown)}")
    return 1 if answer.findings else 0


def _asked(pins: Sequence[str], options: Sequence[str]) -> Answer:
    """What is known of these versions.

    Raises:
        SystemExit: pip-audit failed, and not because nobody answered.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(pins))
        listed.flush()
        argv = [sys.executable, *AUDIT, "--timeout", str(ANSWER_S), "--requirement", listed.name, *options]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.stdout.startswith("{"):
        return _read(json.loads(done.stdout)["dependencies"])
    if NOT_REACHED.search(done.stderr):
        return Answer(findings=(), unknown=pins)
    sys.exit(f"pip-audit failed:\n{done.stderr}")


def _read(packages: Sequence[dict[str, Any]]) -> Answer:
    findings = [
        f"{package['name']} {package['version']} has {found['id']}, mended in "
        f"{' or '.join(found['fix_versions']) or 'no version yet'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    return Answer(findings, [package["name"] for package in packages if "skip_reason" in package])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
