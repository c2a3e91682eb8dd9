"""`python -m demo_app.traffic`: a few users click through the running demo, so that there is something to look at."""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import time

import httpx

AT_ONCE = 4
"""Users at a time. Hashing a password takes a core for a moment, so more would only wait."""
NAMES = ("ada", "grace", "alan", "edsger", "barbara", "donald", "margaret", "ken")
DECISIONS = ("allow", "allow", "deny")
QUESTIONS = (
    "Which campaign has the best ROAS?",
    "How much did we spend on Google in the last 14 days?",
    "Which channel brought the most revenue this week?",
    "What is the cost per order of each campaign?",
    "Show me the daily clicks from Meta",
)
TOO_LONG = "And what about this campaign? " * 130
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"


async def play(base_url: str, number: int) -> None:
    """One user: sign up, connect two accounts and deny one, ask, run into the test error, log out and in again."""
    chance, now = random.Random(number), int(time.time())
    # What Google's tag sets in a browser: analytics joins these users to their visits by it.
    cookies = {"_ga": f"GA1.1.{chance.randrange(10**9)}.{now}", "_ga_DEMO": f"GS2.1.s{now}$o1$g0$t{now}$j60$l0$h0"}
    headers = {"User-Agent": AGENT, "Accept": "text/html", "Accept-Language": "en"}
    name, password = NAMES[number % len(NAMES)], secrets.token_urlsafe(12)
    account = {"email": f"{name}.{secrets.token_hex(3)}@example.com", "password": password}

    async with httpx.AsyncClient(
        base_url=base_url, headers=headers, cookies=cookies, follow_redirects=True, timeout=30, trust_env=False
    ) as client:
        await _post(client, "/signup", account | {"workspace": f"{name.title()}'s shop"})
        for provider, decision in zip(("google_ads", "meta_ads", "shopify"), chance.sample(DECISIONS, 3), strict=True):
            consent_page = await _post(client, f"/connections/{provider}")
            await _post(client, str(consent_page.url), {"decision": decision})
        for question in (*chance.sample(QUESTIONS, 3), TOO_LONG):
            await client.post("/qa", json={"question": question, "conversation_id": f"traffic-{number}-{now}"})
        # uvicorn closes a connection on which an error was raised; without this the next request could run into that.
        await client.post("/debug/error", headers={"Connection": "close"})
        await _post(client, "/logout")
        await _post(client, "/login", account)


async def _post(client: httpx.AsyncClient, url: str, form: dict[str, str] | None = None) -> httpx.Response:
    return (await client.post(url, data=form)).raise_for_status()


async def play_all(base_url: str, users: int) -> None:
    """All users, `AT_ONCE` at a time."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def play_in_turn(number: int) -> None:
        async with turns:
            await play(base_url, number)

    await asyncio.gather(*(play_in_turn(number) for number in range(users)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_app.traffic", description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="the demo's address (default: %(default)s)")
    parser.add_argument("--users", type=int, default=3, help="how many users (default: %(default)s)")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        asyncio.run(play_all(options.base_url, options.users))
    except httpx.ConnectError:
        sys.exit(f"Nothing answers on {options.base_url}: start the demo with `python -m demo_app` first.")
    print(f"{options.users} users played in {time.monotonic() - started:.1f} s.")


if __name__ == "__main__":
    main()
