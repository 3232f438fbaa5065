"""What a backend, a grader and a pipeline must do, as plain functions: for our own tests and for those of plugins.

    from hybrid import testing

    @pytest.mark.parametrize("check", testing.BACKEND_CHECKS, ids=lambda check: check.__name__)
    def test_my_backend(check, backend):
        check(backend)

Each raises `Broken`, an AssertionError that says what was promised and what came instead.
"""

from __future__ import annotations

from hybrid.testing.backends import (
    BACKEND_CHECKS,
    answers,
    ask,
    check_a_bad_request_fails_alone,
    check_a_draw_does_not_depend_on_its_neighbours,
    check_a_logprob_is_of_the_text_alone,
    check_a_prompt_that_is_too_long_is_an_error,
    check_a_raw_prompt_is_continued,
    check_a_schema_holds_chats_and_raw_prompts,
    check_a_thought_is_no_answer,
    check_an_answer_ends_with_its_turn,
    check_any_unicode_is_answered,
    check_backend,
    check_every_request_is_answered_once,
    check_greedy_is_deterministic,
    check_logprobs_come_when_asked_for,
    check_max_tokens_is_a_bound,
    check_nothing_asked_is_nothing_answered,
    check_requests_are_pulled_as_capacity_frees,
    check_requests_may_come_later,
    check_seeds_reproduce_and_differ,
    check_stop_strings_cut_the_text,
    check_the_model_is_named,
    check_token_counts_are_plausible,
    impossible_requests,
)
from hybrid.testing.content import check_grader, check_pipeline
from hybrid.testing.promises import STRANGE, Broken

__all__ = [
    "BACKEND_CHECKS",
    "STRANGE",
    "Broken",
    "answers",
    "ask",
    "check_a_bad_request_fails_alone",
    "check_a_draw_does_not_depend_on_its_neighbours",
    "check_a_logprob_is_of_the_text_alone",
    "check_a_prompt_that_is_too_long_is_an_error",
    "check_a_raw_prompt_is_continued",
    "check_a_schema_holds_chats_and_raw_prompts",
    "check_a_thought_is_no_answer",
    "check_an_answer_ends_with_its_turn",
    "check_any_unicode_is_answered",
    "check_backend",
    "check_every_request_is_answered_once",
    "check_grader",
    "check_greedy_is_deterministic",
    "check_logprobs_come_when_asked_for",
    "check_max_tokens_is_a_bound",
    "check_nothing_asked_is_nothing_answered",
    "check_pipeline",
    "check_requests_are_pulled_as_capacity_frees",
    "check_requests_may_come_later",
    "check_seeds_reproduce_and_differ",
    "check_stop_strings_cut_the_text",
    "check_the_model_is_named",
    "check_token_counts_are_plausible",
    "impossible_requests",
]
