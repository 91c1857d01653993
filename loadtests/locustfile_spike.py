"""The same users in another shape: a quarter of them, suddenly all, a quarter again."""

from __future__ import annotations

from locust import LoadTestShape

from loadtests.locustfile import Inference

__all__ = ["Inference", "Spike"]


class Spike(LoadTestShape):
    """Three equal parts of `--run-time`; the middle one has all `--users`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are now, and how many may start in a second."""
        assert self.runner
        options = self.runner.environment.parsed_options
        assert options
        users, seconds = options.num_users, options.run_time
        part = 3 * self.get_run_time() / seconds  # type: ignore[no-untyped-call]
        if part >= 3:
            return None
        return (users if 1 <= part < 2 else max(1, users // 4)), users
