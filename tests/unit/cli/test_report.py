"""heartvit-edge report: files, messages and exit codes."""

from __future__ import annotations

from fakes.runs import make_evaluation, make_measurement, write_run


def test_report_writes_the_page_and_beside_it_markdown_and_csv_and_prints_their_paths(run_cli, tmp_path):
    folder = write_run(tmp_path / "run", make_measurement(), make_evaluation())
    result = run_cli("report", folder, "--out", tmp_path / "out" / "r.html")
    paths = [tmp_path / "out" / name for name in ("r.html", "r.md", "r.csv")]
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [str(path) for path in paths]
    assert all(path.stat().st_size for path in paths)


def test_report_writes_report_html_into_the_current_folder_by_default(run_cli, tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", make_measurement())
    monkeypatch.chdir(tmp_path)
    assert run_cli("report", folder).stdout.split() == ["report.html", "report.md", "report.csv"]
    assert (tmp_path / "report.html").is_file()


def test_report_takes_names_for_markdown_and_csv(run_cli, tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    names = [tmp_path / name for name in ("a.html", "b.md", "c.csv")]
    result = run_cli("report", folder, "--out", names[0], "--markdown", names[1], "--csv", names[2])
    assert result.stdout.split() == [str(name) for name in names]


def test_report_of_an_empty_folder_exits_2_and_says_what_makes_the_files(run_cli, tmp_path):
    result = run_cli("report", tmp_path, "--out", tmp_path / "r.html")
    assert result.exit_code == 2
    assert "holds neither measurement.json (made by bench) nor evaluation.json (made by evaluate)" in result.stderr
    assert "hint: heartvit-edge bench PACK --out RUN" in result.stderr
    assert not (tmp_path / "r.html").exists()


def test_report_does_not_replace_a_file_without_force(run_cli, tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    page = tmp_path / "r.html"
    page.write_text("mine")
    result = run_cli("report", folder, "--out", page)
    assert (result.exit_code, page.read_text()) == (2, "mine")
    assert "--force" in result.stderr
    assert run_cli("report", folder, "--out", page, "--force").exit_code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_report_needs_a_run(run_cli):
    result = run_cli("report")
    assert result.exit_code == 2
    assert "RUN" in result.stderr
