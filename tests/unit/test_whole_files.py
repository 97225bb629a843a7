"""Files appear whole or not at all, whoever writes them at the same time."""

from concurrent.futures import ThreadPoolExecutor

from data_pipeline.files import write_whole


def test_writers_with_one_pid_do_not_take_each_others_file(tmp_path):
    """Containers of several hosts all have pid 1, and ranks may be threads: the last one wins."""
    path = tmp_path / "status.json"
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def write(content: bytes) -> None:
        for _ in range(20):
            write_whole(path, content, durable=False)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
