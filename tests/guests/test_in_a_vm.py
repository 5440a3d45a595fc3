"""What this machine's kernel may not have, device-mapper and vhost-net, is tried in a virtual machine of its own."""

import shlex
import sys

import pytest

from tests import vm

PYTEST = (
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {python} -m pytest -q --noconftest -c /dev/null --rootdir . "
    "-p no:cacheprovider --color no {files}"
)
"""Without plugins and what other tests share: each second that they take here is half a minute there."""


@pytest.mark.all_lines
@pytest.mark.timeout(1800)
def test_volumes_by_lvm_and_networks_by_vhost_are_what_a_real_kernel_makes_of_them() -> None:
    vm.need()
    files = "tests/guests/test_lvm.py tests/guests/test_vhost.py"
    inside = PYTEST.format(python=shlex.quote(sys.executable), files=files)
    ran = vm.run(f"{vm.GROUPS} && {inside}", disks_mib=(512, 1024), timeout_s=1700)
    assert ran.status == 0, ran.output
    assert "skipped" not in ran.output, ran.output
