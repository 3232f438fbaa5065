"""What every backend must do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice, pairwise
from typing import Any

from hybrid.canonical import encode
from hybrid.protocols import Backend
from hybrid.records import Completion, Message, Request, Sampling
from hybrid.testing.promises import STRANGE, Broken, expect

MOST_AHEAD = 4096
"""Requests that a backend may have taken and not answered yet."""


def ask(text: str, key: str = "", **sampling: Any) -> Request:
    """A chat of one question; `sampling` as in `Sampling`, 16 tokens and greedy when nothing is said."""
    return Request(Sampling(**{"max_tokens": 16, **sampling}), messages=(Message("user", text),), key=key or text)


def answers(backend: Backend, *requests: Request) -> dict[str, Completion]:
    """The completions by key. Raises Broken when a key is missing, unknown or answered twice."""
    found: dict[str, Completion] = {}
    for completion in backend.generate(iter(requests)):
        expect(completion.key not in found, f"the request '{completion.key}' was answered twice")
        found[completion.key] = completion
    asked = sorted(request.key for request in requests)
    expect(sorted(found) == asked, f"asked {asked}, answered {sorted(found)}")
    return found


def check_every_request_is_answered_once(backend: Backend) -> None:
    """Long and short prompts and answers mixed: each key comes back once, in whatever order."""
    requests = [
        ask(f"Say the number {n}." + " Please." * (n % 3 * 20), f"k{n}", max_tokens=1 + n % 4 * 5) for n in range(12)
    ]
    for completion in answers(backend, *requests).values():
        _text(completion)
        expect(completion.seconds >= 0, f"took {completion.seconds} seconds")


def check_nothing_asked_is_nothing_answered(backend: Backend) -> None:
    """An empty stream gives an empty stream, and the backend still works afterwards."""
    expect(list(backend.generate(iter(()))) == [], "completions without requests")
    _text(answers(backend, ask("Hello"))["Hello"])


def check_requests_are_pulled_as_capacity_frees(backend: Backend) -> None:
    """An endless stream of requests gives completions at once; a reader who stops leaves the backend usable."""
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        for pulled in count(1):
            yield ask(f"Say {pulled}.", f"k{pulled}", max_tokens=2)

    stream = backend.generate(endless())
    for answered, _ in enumerate(islice(stream, 8), start=1):
        expect(pulled - answered <= MOST_AHEAD, f"{pulled} requests taken, {answered} answered")
    close = getattr(stream, "close", None)
    if close:
        close()
    _text(answers(backend, ask("Hello"))["Hello"])


def check_requests_may_come_later(backend: Backend) -> None:
    """A None among the requests is passed over while one is unanswered, and what comes after it is answered, too."""
    asked, answered = 0, 0

    def later() -> Iterator[Request | None]:
        nonlocal asked
        while asked < 8:
            if asked - answered < 2:
                asked += 1
                yield ask(f"Say {asked}.", f"k{asked}", max_tokens=4)
            else:
                yield None

    found = []
    for completion in backend.generate(later()):
        answered += 1
        found.append(completion.key)
    expect(sorted(found) == [f"k{n}" for n in range(1, 9)], f"asked 8, two at a time, answered {sorted(found)}")


def check_greedy_is_deterministic(backend: Backend) -> None:
    """Asked again the same way, a greedy request gives the same text."""
    requests = [ask(f"Name {n} colours.", max_tokens=12) for n in (2, 3, 5)]
    once, again = (_texts(answers(backend, *requests)) for _ in range(2))
    expect(once == again, f"greedy texts differ: {once} and {again}")


def check_seeds_reproduce_and_differ(backend: Backend) -> None:
    """A seed gives its text again; among six seeds there is more than one text."""
    requests = [ask("Tell me a story.", f"seed {n}", temperature=1.0, seed=n) for n in range(6)]
    once, again = (_texts(answers(backend, *requests)) for _ in range(2))
    expect(once == again, f"the same seeds gave {once} and {again}")
    expect(len(set(once.values())) > 1, f"six seeds gave one text: {once}")


def check_a_draw_does_not_depend_on_its_neighbours(backend: Backend) -> None:
    """A sampled request gives the same text alone and in company, but for rounding: half of six must."""
    requests = [ask("Tell me a story.", f"seed {n}", temperature=1.0, seed=n, max_tokens=8) for n in range(6)]
    company = _texts(answers(backend, *requests))
    alone = {request.key: _text(answers(backend, request)[request.key]) for request in requests}
    same = sum(company[key] == alone[key] for key in company)
    expect(2 * same >= len(requests), f"alone {alone}, in company {company}")


def check_stop_strings_cut_the_text(backend: Backend) -> None:
    """The text ends right before the first stop string, which may start or end inside a token."""
    whole = _text(answers(backend, ask("Count from one to ten.", max_tokens=24))["Count from one to ten."])
    expect(len(whole) > 6, f"too short an answer to cut: {whole!r}")
    for start in (1, len(whole) // 2):
        stop = whole[start : start + 3]
        request = ask("Count from one to ten.", max_tokens=24, stop=("\x00never", stop))
        cut = answers(backend, request)[request.key]
        expect(_text(cut) == whole[: whole.index(stop)], f"{whole!r} stopped at {stop!r} became {cut.text!r}")
        expect(cut.finish == "stop", f"finish is '{cut.finish}' after a stop string")


def check_max_tokens_is_a_bound(backend: Backend) -> None:
    """No answer is longer than asked, and one that was cut says so."""
    for limit in (1, 5):
        done = answers(backend, ask("Tell me a long story.", max_tokens=limit))["Tell me a long story."]
        _text(done)
        expect(done.completion_tokens <= limit, f"{done.completion_tokens} tokens, at most {limit} were asked for")
        expect(done.finish in ("stop", "length"), f"finish is '{done.finish}'")
        expect(
            done.finish == "stop" or done.completion_tokens == limit, f"cut after {done.completion_tokens} of {limit}"
        )


def check_a_prompt_that_is_too_long_is_an_error(backend: Backend) -> None:
    """It is refused with kind `too-long` and the context's size, never cut, and its neighbours are answered."""
    context = backend.model.context
    found = answers(backend, ask("Hello"), ask("word " * (context + 1), "long"), ask("Goodbye"))
    error = found["long"].error
    if error is None:
        raise Broken(f"a prompt of more than {context} tokens was answered with {found['long'].text!r}")
    expect(error.kind == "too-long", f"the kind of the error is '{error.kind}': {error.message}")
    expect(str(context) in error.message.replace(",", ""), f"the message does not name {context}: {error.message}")
    for key in ("Hello", "Goodbye"):
        _text(found[key])


def impossible_requests() -> tuple[Request, ...]:
    """Requests that no backend can be asked, each with what is wrong with it as its key."""
    how, hello = Sampling(4), (Message("user", "Hello"),)
    samplings = {
        "no new tokens": replace(how, max_tokens=0),
        "a negative temperature": replace(how, temperature=-1.0),
        "a temperature that is no number": replace(how, temperature=math.nan),
        "no probability": replace(how, top_p=0.0),
        "more than all probability": replace(how, top_p=1.5),
        "an empty stop string": replace(how, stop=("",)),
    }
    return (
        Request(how, key="neither messages nor a prompt"),
        Request(how, messages=hello, prompt="Hello", key="both"),
        Request(how, messages=(*hello, Message("system", "Be brief.")), key="a late system message"),
        Request(how, prompt="\ud800", key="half a character"),
        *(Request(wrong, prompt="Hello", key=name) for name, wrong in samplings.items()),
    )


def check_a_bad_request_fails_alone(backend: Backend) -> None:
    """What cannot be asked is an error `bad-request`, others are answered.

    A schema that cannot be enforced is `bad-schema`, also one of which the engine does not know a member.
    """
    impossible, different = {"type": "no such type"}, {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    raw = Request(Sampling(4), prompt="A number:", schema=impossible, key="raw")
    chat = replace(ask("Give me JSON.", "chat"), schema=impossible)
    unknown = replace(ask("Give me JSON.", "a schema with uniqueItems"), schema=different)
    found = answers(backend, ask("Hello"), raw, chat, unknown, *impossible_requests())
    _text(found.pop("Hello"))
    for key, done in found.items():
        kind = "bad-schema" if key in ("raw", "chat", unknown.key) else "bad-request"
        error = done.error
        expect(error is not None and error.kind == kind and bool(error.message), f"'{key}' is no {kind}: {done}")


def check_an_answer_ends_with_its_turn(backend: Backend) -> None:
    """A short answer ends by itself, and the turns that might follow are no part of it."""
    done = answers(backend, ask("Hello", max_tokens=100))["Hello"]
    expect(done.finish == "stop" and "\nuser" not in _text(done), f"the model went on after its turn: {done.text!r}")


def check_a_schema_holds_chats_and_raw_prompts(backend: Backend) -> None:
    """The answer is a JSON value that fits. It has no log-probability: engines differ in what the schema does to it."""
    shape = {"type": "object", "properties": {"age": {"enum": [7, 8]}}, "required": ["age"]}
    schema, how = {**shape, "additionalProperties": False}, Sampling(64)
    raw = Request(how, prompt="A child of seven as JSON: ", schema=schema, logprobs=True, key="raw")
    chat = replace(ask("How old is the child? Answer in JSON.", "chat", max_tokens=64), schema=schema, logprobs=True)
    for key, done in answers(backend, raw, chat).items():
        try:
            fits = json.loads(_text(done)) in ({"age": 7}, {"age": 8})
        except ValueError:
            fits = False
        expect(fits, f"'{key}' was to be held to a schema, and said {done.text!r}")
        expect(done.logprob is None, f"'{key}' has a schema and the log-probability {done.logprob}")


def check_any_unicode_is_answered(backend: Backend) -> None:
    """Every script goes in, and what comes out can be written as UTF-8."""
    requests = [ask(f"Repeat: {text}", f"k{n}") for n, text in enumerate(STRANGE[:5])]
    for completion in answers(backend, *requests).values():
        _text(completion).encode()


def check_token_counts_are_plausible(backend: Backend) -> None:
    """Longer prompts have more tokens, each answer has at least one, and no more is cached than there is."""
    requests = [ask("Hello" + " again" * n, f"k{n}") for n in (0, 20, 60)]
    found = answers(backend, *requests)
    lengths = [found[request.key].prompt_tokens for request in requests]
    expect(all(a + 20 <= b for a, b in pairwise(lengths)) and lengths[0] > 0, f"prompts have {lengths} tokens")
    for done in found.values():
        expect(0 <= done.cached_tokens <= done.prompt_tokens, f"{done.cached_tokens} cached of {done.prompt_tokens}")
        expect(0 < done.completion_tokens <= 16, f"{done.completion_tokens} new tokens")


def check_logprobs_come_when_asked_for(backend: Backend) -> None:
    """The sum of natural logarithms, before temperature and `top_p`: finite, not above zero; None unasked."""
    found = answers(backend, replace(ask("Hello", "with"), logprobs=True), ask("Hello", "without"))
    logprob = found["with"].logprob
    expect(logprob is not None and math.isfinite(logprob) and logprob <= 0, f"the log-probability is {logprob}")
    expect(found["without"].logprob is None, "a log-probability that nobody asked for")


def check_a_logprob_is_of_the_text_alone(backend: Backend) -> None:
    """The token that ends an answer is not counted: an answer cut right before it has the same log-probability."""
    whole = answers(backend, replace(ask("Hello", max_tokens=100), logprobs=True))["Hello"]
    expect(whole.finish == "stop", f"no short answer: {whole.text!r}")
    for tokens in (whole.completion_tokens - 1, whole.completion_tokens):  # the end token is counted, or it is not
        cut = answers(backend, replace(ask("Hello", max_tokens=tokens), logprobs=True))["Hello"]
        if (cut.text, cut.finish) == (whole.text, "length"):
            break
    expect(cut.text == whole.text, f"cut after {tokens} tokens, {whole.text!r} became {cut.text!r}")
    near = whole.logprob is not None and cut.logprob is not None and abs(whole.logprob - cut.logprob) < 0.05
    expect(near, f"one text has the log-probabilities {whole.logprob} and, cut before its end token, {cut.logprob}")


def check_a_raw_prompt_is_continued(backend: Backend) -> None:
    """A request with `prompt` is not a chat: its tokens are its own, without a template's."""
    raw = Request(Sampling(4), prompt="One, two, three, four,", key="raw")
    found = answers(backend, raw, ask(raw.prompt, "chat"))
    _text(found["raw"])
    expect(found["raw"].prompt_tokens <= found["chat"].prompt_tokens, "a raw prompt has more tokens than its chat")


def check_a_thought_is_no_answer(backend: Backend) -> None:
    """Where the prompt has opened a thought, what comes before its end is apart from the text, which is then none."""
    done = answers(backend, Request(Sampling(4), prompt="Question: 2 + 3?\n<think>\n", key="thinks"))["thinks"]
    if done.error is None:
        raise Broken(f"a thought was given as the answer {done.text!r}")
    expect(done.error.kind == "no-answer", f"the kind of the error is '{done.error.kind}': {done.error.message}")
    expect(done.prompt_tokens > 0 and bool(done.finish), "what is known of it is lost")


def check_the_model_is_named(backend: Backend) -> None:
    """Digest of 64 hex digits, a context, and provenance that fits into JSON."""
    model = backend.model
    expect(len(model.digest) == 64 and not set(model.digest) - set("0123456789abcdef"), f"digest '{model.digest}'")
    expect(model.context > 0 and bool(model.name), f"model {model}")
    encode(dict(model.about))


BACKEND_CHECKS: tuple[Callable[[Backend], None], ...] = (
    check_the_model_is_named,
    check_every_request_is_answered_once,
    check_nothing_asked_is_nothing_answered,
    check_requests_are_pulled_as_capacity_frees,
    check_requests_may_come_later,
    check_greedy_is_deterministic,
    check_seeds_reproduce_and_differ,
    check_a_draw_does_not_depend_on_its_neighbours,
    check_stop_strings_cut_the_text,
    check_max_tokens_is_a_bound,
    check_a_prompt_that_is_too_long_is_an_error,
    check_a_bad_request_fails_alone,
    check_an_answer_ends_with_its_turn,
    check_a_schema_holds_chats_and_raw_prompts,
    check_any_unicode_is_answered,
    check_token_counts_are_plausible,
    check_logprobs_come_when_asked_for,
    check_a_logprob_is_of_the_text_alone,
    check_a_raw_prompt_is_continued,
    check_a_thought_is_no_answer,
)


def check_backend(backend: Backend) -> None:
    """Every check of `BACKEND_CHECKS` against an open backend with a real model that speaks English."""
    for check in BACKEND_CHECKS:
        check(backend)


def _texts(found: dict[str, Completion]) -> dict[str, str]:
    return {key: _text(completion) for key, completion in found.items()}


def _text(completion: Completion) -> str:
    if completion.text is None:
        raise Broken(f"'{completion.key[:40]}' failed: {completion.error}")
    return completion.text
