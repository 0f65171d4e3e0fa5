"""Reading run folders, and what is wrong with them."""

from __future__ import annotations

import pytest
from fakes.runs import make_evaluation, make_measurement, make_pack, write_run

from heartvit_edge.errors import InputError
from heartvit_edge.report.runs import read_runs


def test_a_run_is_read_as_it_was_stored(tmp_path):
    measurement, evaluation = make_measurement(power=True), make_evaluation()
    folder = write_run(tmp_path / "orin", measurement, evaluation)
    (run,) = read_runs([folder])
    assert (run.label, run.measurement, run.evaluation, run.pack) == (
        "orin",
        measurement,
        evaluation,
        measurement.pack,
    )


def test_an_evaluation_joins_the_measurement_of_the_same_engines_in_another_folder(tmp_path):
    timed = write_run(tmp_path / "timed", make_measurement())
    asked = write_run(tmp_path / "asked", evaluation=make_evaluation())
    (run,) = read_runs([timed, asked])
    assert run.label == "timed"
    assert run.evaluation == make_evaluation()


def test_an_evaluation_of_other_engines_stays_a_run_of_its_own_and_takes_the_pack(tmp_path):
    timed = write_run(tmp_path / "timed", make_measurement())
    asked = write_run(tmp_path / "asked", evaluation=make_evaluation(engine="9" * 64))
    first, second = read_runs([timed, asked])
    assert first.evaluation is None
    assert (second.label, second.measurement, second.pack) == ("asked", None, make_pack())


def test_runs_with_the_same_folder_name_are_labelled_by_their_path(tmp_path):
    folders = [write_run(tmp_path / name / "run", make_measurement()) for name in "ab"]
    assert [run.label for run in read_runs(folders)] == [str(folder) for folder in folders]


def test_the_current_folder_is_labelled_by_its_name(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "here", make_measurement())
    monkeypatch.chdir(folder)
    assert read_runs([folder.__class__(".")])[0].label == "here"


def test_a_folder_with_neither_file_names_both_and_what_makes_them(tmp_path):
    with pytest.raises(InputError, match=r"neither measurement\.json \(made by bench\) nor evaluation\.json") as caught:
        read_runs([tmp_path])
    assert "heartvit-edge bench PACK --out RUN" in caught.value.hint
    assert "heartvit-edge evaluate PACK --data DATA --out RUN" in caught.value.hint


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        read_runs([tmp_path / "nowhere"])


def test_the_same_folder_twice_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    with pytest.raises(InputError, match="given twice"):
        read_runs([folder, tmp_path / "run" / ".." / "run"])


def test_files_of_two_packs_in_one_folder_are_refused(tmp_path):
    other = make_pack("other_vit")
    folder = write_run(tmp_path / "run", make_measurement(), make_evaluation(pack=other))
    with pytest.raises(InputError, match="mixes two packs") as caught:
        read_runs([folder])
    assert other.digest()[:12] in str(caught.value)


def test_a_measured_entry_that_the_pack_lacks_is_refused(tmp_path):
    measurement = make_measurement()
    row = measurement.rows[0].model_copy(update={"entry": "macs-0.1"})
    folder = write_run(tmp_path / "run", measurement.model_copy(update={"rows": (row,)}))
    with pytest.raises(InputError, match=r"entry 'macs-0\.1', its pack has only dense, macs-0\.5"):
        read_runs([folder])


def test_an_evaluation_whose_counts_do_not_fit_its_images_is_refused(tmp_path):
    evaluation = make_evaluation()
    answers = evaluation.entries[0].model_copy(update={"agreeing": 101})
    folder = write_run(
        tmp_path / "run", evaluation=evaluation.model_copy(update={"entries": (answers, *evaluation.entries[1:])})
    )
    with pytest.raises(InputError, match="counts 101 answers of entry 'dense', expected 100"):
        read_runs([folder])


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "measurement.json").write_text("{")
    with pytest.raises(InputError, match=r"measurement\.json is not JSON"):
        read_runs([tmp_path])


def test_a_file_of_a_run_is_refused_with_the_folder_to_name(tmp_path):
    folder = write_run(tmp_path / "run", make_measurement())
    with pytest.raises(InputError, match="is a file, expected the folder that holds it") as caught:
        read_runs([folder / "measurement.json"])
    assert caught.value.hint == f"name {folder}"


def test_a_folder_of_runs_is_refused_with_the_command_that_names_them(tmp_path):
    for mode in ("MAXN", "15W"):
        write_run(tmp_path / "sweep" / mode, make_measurement())
    with pytest.raises(InputError, match="is no run, and holds 15W, MAXN") as caught:
        read_runs([tmp_path / "sweep"])
    assert caught.value.hint == f"heartvit-edge report {tmp_path / 'sweep' / '15W'} {tmp_path / 'sweep' / 'MAXN'}"
