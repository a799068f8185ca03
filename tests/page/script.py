"""What the scripted master lets its council say: the texts and the turns of one session."""

import asyncio
from dataclasses import dataclass, field

PLAIN = """A **token bucket** fits best here.

1. It allows short bursts up to the size of the bucket.
2. Its state is two numbers per client: tokens and the time of the last refill.
3. It needs no background task: the refill is computed when a request arrives.

```python
def allow(bucket, now, rate, size):
    elapsed = now - bucket.at
    bucket.tokens = min(size, bucket.tokens + elapsed * rate)
    bucket.at = now
    if bucket.tokens < 1:
        return False  # the caller answers 429
    bucket.tokens -= 1
    return True
```

A *sliding window* is stricter, but it stores every request of the window."""

SECOND = """I would begin with the question of **what must be protected**.

| algorithm | bursts | memory per client |
|---|---|---|
| fixed window | twice the limit at the edge | 1 number |
| sliding log | none | all requests |
| token bucket | up to the bucket | 2 numbers |

For an API behind several gateways the counter must be shared, or each gateway gets a part of the limit."""

THIRD = """Use a leaky bucket if the *downstream* must see a constant rate; otherwise a token bucket.

- Answer `429` with `Retry-After`.
- Limit by key, not by address: a whole office can share one address.
- Measure first: most limits that hurt users were guessed."""

FINAL = """Use a **token bucket per API key**, kept in one shared store.

## Why

All three seats prefer it to windows: it permits short bursts, keeps two numbers per client and needs
no background task. Seat 2 adds that the counter must be shared as soon as there is more than one gateway,
and seat 3 that clients need to be told when to come back.

## How

1. Refill when a request arrives: `tokens = min(size, tokens + elapsed * rate)`.
2. Do the refill and the decrement in one atomic step of the store.
3. Answer `429` with `Retry-After` when the bucket is empty.

```python
if not allow(bucket, now, rate=10, size=40):
    return Response(status=429, headers={"Retry-After": "1"})
```

Measure for a week before you choose `rate` and `size`."""

THINKING = "The user asks for a rate limiter. Bursts matter. Compare windows with buckets, then choose one."

HOSTILE = """Before. <script>window.hacked = 1; alert("script")</script>
<img src=x onerror="window.hacked = 2">

<style>body { display: none } .answer-text { color: red

After the style. <svg onload="window.hacked = 3"> <iframe src="http://foreign.invalid/frame"></iframe>

[a link](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>) [good](https://example.org/page)
<a href="javascript:alert(6)">raw</a>

![pixel](http://foreign.invalid/pixel.png)
![inline](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDcpIi8+)

<form action="http://foreign.invalid/post"><input name=q autofocus onfocus="window.hacked=8">

<div style="position:fixed;inset:0;background:red" id="main" class="toast">

```html "><script>window.hacked=9</script>
<script>window.hacked = 10</script>
```

<math><mtext></table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.hacked=11&gt;">

The last words <b unclosed"""


@dataclass
class Script:
    """How the next session goes. Agents are named by their id."""

    answers: list[str] = field(default_factory=lambda: [PLAIN, SECOND, THIRD])
    final: str = FINAL
    thinking: dict[str, str] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    abstaining: set[str] = field(default_factory=set)
    restarting: set[str] = field(default_factory=set)
    kind: str = "chairman"
    practice: bool = False
    contested: bool = False
    warnings: list[str] = field(default_factory=list)
    trimmed: list[str] = field(default_factory=list)
    chunk: int = 24
    pause_s: float = 0.0
    drop_at: list[int] = field(default_factory=list)
    """A socket is cut right after it sent the event with such a number, once each."""
    hold: dict[str, asyncio.Event] = field(default_factory=dict)
    """Waits at `opinions`, `review`, `synthesis` (in the middle of it) until the event is set."""

    async def reach(self, place: str) -> None:
        """Wait where the test wants to look at the page."""
        if place in self.hold:
            await self.hold[place].wait()
