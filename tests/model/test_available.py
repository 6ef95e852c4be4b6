"""Free memory, and what control groups leave of it, from trees that look like Linux's."""

from quiplinalg.model.available import available_memory

MB = 1 << 20


def tree(root, groups: str, files: dict[str, str], free_kb: int = 8192):
    files = files | {
        "proc/meminfo": f"MemTotal: 99999 kB\nMemAvailable: {free_kb} kB\n",
        "proc/self/cgroup": groups,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_groups_it_is_what_the_kernel_calls_available(tmp_path):
    assert available_memory(tree(tmp_path, "0::/\n", {})) == 8 * MB


def test_the_smallest_of_all_groups_above_counts_in_version_2(tmp_path):
    top = "sys/fs/cgroup"
    files = {
        f"{top}/a/memory.max": f"{5 * MB}\n",
        f"{top}/a/memory.current": f"{3 * MB}\n",
        f"{top}/a/memory.stat": f"anon 1\ninactive_file {MB}\n",  # given back when it is needed
        f"{top}/a/b/memory.max": "max\n",
        f"{top}/a/b/memory.current": "1\n",
    }
    assert available_memory(tree(tmp_path, "0::/a/b\n", files)) == 3 * MB


def test_a_container_sees_its_group_at_the_top(tmp_path):
    files = {
        "sys/fs/cgroup/memory.max": f"{2 * MB}\n",
        "sys/fs/cgroup/memory.current": f"{MB}\n",
    }
    assert available_memory(tree(tmp_path, "0::/not/here\n", files)) == MB


def test_version_1_has_other_names(tmp_path):
    top = "sys/fs/cgroup/memory/jobs"
    files = {
        f"{top}/memory.limit_in_bytes": f"{4 * MB}\n",
        f"{top}/memory.usage_in_bytes": f"{3 * MB}\n",
        f"{top}/memory.stat": f"inactive_file 7\ntotal_inactive_file {MB // 2}\n",
    }
    groups = "5:cpu,cpuacct:/jobs\n4:memory:/jobs\n"
    assert available_memory(tree(tmp_path, groups, files)) == MB + MB // 2


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path):
    files = {"sys/fs/cgroup/memory.max": "5\n", "sys/fs/cgroup/memory.current": "9\n"}
    assert available_memory(tree(tmp_path, "0::/\n", files)) == 0


def test_elsewhere_it_is_the_physical_memory_or_not_known(tmp_path, monkeypatch):
    found = available_memory(tmp_path)
    assert found is None or found > 64 * MB
    monkeypatch.delattr("os.sysconf", raising=False)
    assert available_memory(tmp_path) is None


def test_this_machine_has_memory():
    found = available_memory()
    assert found is None or found > 0
