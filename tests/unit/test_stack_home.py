import os

import pytest

from orchestrator.stack.state import make_home


@pytest.mark.parametrize("there", [False, True])
def test_a_home_is_its_owners_alone_whatever_the_umask_and_whoever_made_it(tmp_path, there):
    home = tmp_path / "new" / ".dermbatch"
    before = os.umask(0)
    try:
        if there:
            (home / "logs").mkdir(parents=True)
        make_home(home)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (home, home / "logs")] == [0o700, 0o700]
