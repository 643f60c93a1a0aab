"""What people read holds no control characters and no secrets of addresses, whatever goes in."""

import errno
import random

import pytest

from components.foundation.errors import InputError
from components.foundation.lines import one_line, say, shown
from components.foundation.process import as_process

SCHEMES = ("http", "https", "postgresql+psycopg2", "mysql", "sqlite", "s3", "ssh", "socks5")
SECRET = "SECRETPW"


def addresses(count: int) -> list[str]:
    rng, found = random.Random(3), []
    for _ in range(count):
        user = rng.choice(["", "me", "me@firm", "a%40b", "token"])
        word = SECRET + rng.choice(["", "@", ":", "%2F", "$&+,;=!*()"])
        port, path = rng.choice(["", ":80"]), rng.choice(["", "/api", "/x?y=z@w", "/a@b/c"])
        found.append(f"{rng.choice(SCHEMES)}://{user}:{word}@host.example{port}{path}")
    return found


def test_no_address_shows_its_secret():
    for address in addresses(300):
        for text in (address, f"no answer from {address} (refused)", f"'{address}', {address}; {address}"):
            assert SECRET not in shown(text) and "host.example" in shown(text), text
        # As a path an address has one slash. Of the rest too much may be hidden.
        assert SECRET not in shown(address.replace("://", ":/", 1)), address


@pytest.mark.parametrize("before", ["pa/", "pa#", "pa?", "/", "#", "80a/", "a:b/"])
def test_nor_one_whose_password_nobody_has_encoded(before):
    """Such an address ends within the password for whoever takes it apart. Of the rest too much may be hidden."""
    for address in addresses(100):
        address = address.replace(f":{SECRET}", f":{before}{SECRET}")
        assert SECRET not in shown(address) and SECRET not in shown(f"no answer from {address} (refused)"), address


@pytest.mark.parametrize(
    "form",
    [
        "{scheme}//{user}:{digits}/{secret}@{host}",
        "{scheme}//{user}:{digits}?{secret}@{host}",
        "{scheme}//{user}:{secret} {digits}@{host}",
        "{scheme}//{user}:a'{secret}@{host}",
        '{scheme}//{user}:a"{secret}@{host}',
        "{scheme}//{user}:a<{secret}>@{host}",
        "{scheme}////{user}:{secret}@{host}",
        "{scheme}{user}:{secret}@{host}",
        "//{user}:{secret}@{host}",
        "{user}:{secret}@{host}",
        "{scheme}//{host}/db?user={user}&password={secret}",
        "{scheme}//{host}/db?sslpassword={secret}&x=1",
        "{scheme}//{host}/a?X-Amz-Signature={secret}",
        "{scheme}//{host}/a?b=c&sig={secret}#d",
        "{scheme}//{host}/a?ACCESS_TOKEN={secret}",
        "{scheme}//{host}/a;api_key={secret}",
    ],
)
def test_nor_in_any_other_form(form):
    """Of the rest too much may be hidden."""
    rng = random.Random(5)
    for _ in range(40):
        parts = {
            "scheme": f"{rng.choice(SCHEMES)}:",
            "user": rng.choice(["me", "a.b", "a%40b", "x-y"]),
            "digits": rng.choice(["1", "80", "1234", "pass9"]),
            "secret": SECRET + rng.choice(["", "1", "!", "$,+"]),
            "host": rng.choice(["host.example", "127.0.0.1:9", "[::1]:80"]),
        }
        address = form.format(**parts)
        for text in (address, f"no answer from {address} (refused)", f"{address}; see a@b.example"):
            assert SECRET not in shown(text), text


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:4200/api",
        "models:/a@champion",
        "runs:/a/b@c",
        "models:/a/1",
        "http://[::1]:80/a@b",
        "me@firm.example",
        "sqlite:////a/b@c.db",
        "a://b/c@d",
        "",
        "12:30 at http://h:80/a, then me@firm.example",
        "epoch 3/30: loss 0.1234 (41 s left): 98.0%",
        "http://h:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=temper",
        "params.yaml: a.b: got 'x', want one of y, z (image@sha256)",
    ],
)
def test_what_holds_no_secret_stays(text):
    assert shown(text) == text


def test_a_line_is_one_line_of_printable_characters():
    rng = random.Random(4)
    for _ in range(300):
        text = "".join(chr(rng.choice([*range(0x100), 0x202E, 0x2028, 0x65E5])) for _ in range(20))
        line = one_line(text)
        assert all(letter.isprintable() or letter == "\xa0" for letter in line), line


def test_a_table_keeps_its_lines_and_nothing_else(capsys):
    say("  a\n\x1b[31mred\rforged\n\nhttp://u:SECRETPW@h/")
    assert capsys.readouterr().out == "  a\n\\x1b[31mred\\rforged\n\nhttp://h/\n"


def test_a_mistake_cannot_forge_a_second_line(capsys):
    with pytest.raises(SystemExit), as_process("stage"):
        raise InputError("classes 'x\nerror: all is well\x1b[2J'")
    assert capsys.readouterr().err == "stage: error: classes 'x\\nerror: all is well\\x1b[2J'\n"


@pytest.mark.parametrize("number", [*range(1, 134)])
def test_every_error_of_the_operating_system_is_one_line_with_its_path(number, capsys):
    with pytest.raises(SystemExit) as caught, as_process("stage"):
        raise OSError(number, "its words", "some/file")
    said = capsys.readouterr().err
    # That there is no memory says nothing about the file.
    wanted = "out of memory (main memory): " if number == errno.ENOMEM else "some/file: its words\n"
    assert caught.value.code == 2 and said.startswith(f"stage: error: {wanted}") and said.count("\n") == 1


def test_what_surrounds_a_line_goes_and_spaces_in_it_stay():
    assert one_line(" \n a\u00a0b\u202fc \r\n") == "a\u00a0b\u202fc" and one_line("a\nb\n") == r"a\nb"
