"""What commands say on stderr."""

from __future__ import annotations

from heartvit_edge.cli.console import progress_bar, say


def test_a_passing_bar_leaves_no_line_where_nobody_watches(capsys):
    for _ in range(3):
        with progress_bar("measuring", 2, transient=True) as advance:
            advance(2)
    assert capsys.readouterr().err == ""


def test_a_bar_that_stays_is_told_once_done(capsys):
    with progress_bar("scoring", 2) as advance:
        advance(1)
        advance(1)
    said = capsys.readouterr()
    assert "scoring" in said.err
    assert "2/2" in said.err
    assert said.out == ""


def test_messages_are_printed_as_they_stand(capsys):
    say("blocks [3, 6] keep [bold]half[/bold]")
    assert capsys.readouterr().err == "blocks [3, 6] keep [bold]half[/bold]\n"
