"""Daily token quotas per tenant: check, consume, priorities, and a reset that nobody has to remember."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from otelbudget import QuotaService

REQUESTS = (
    ("acme", 4_000, "normal"),
    ("acme", 3_000, "low"),
    ("acme", 3_000, "normal"),
    ("acme", 2_000, "normal"),
    ("acme", 2_000, "high"),
    ("globex", 9_000, "high"),
)


def main() -> None:
    now = datetime(2026, 3, 2, 23, 50, tzinfo=UTC)
    # A fifth is kept for high priority and another for normal: normal stops at 80 %, low at 60 %.
    # The clock is passed in only because this example can't wait for midnight.
    quotas = QuotaService(
        default_daily_quota=10_000, reserve_for={"high": 0.2, "normal": 0.2}, clock_s=lambda: now.timestamp()
    )

    for tenant, tokens, priority in REQUESTS:
        if quotas.check_quota(tenant, estimated_tokens=tokens, priority=priority):
            quotas.consume_quota(tenant, tokens)
            what = "admitted"
        else:
            what = "refused "
        print(f"{now:%H:%M}  {tenant:<6} {tokens:>5} {priority:<6} {what}  {quotas.remaining(tenant):>6} left today")

    print(f"\nacme's quota resets by itself at {quotas.usage('acme').resets_at:%Y-%m-%d %H:%M %Z}")
    now += timedelta(minutes=15)
    print(f"{now:%H:%M}  acme   {quotas.remaining('acme'):>31} left today")


if __name__ == "__main__":
    main()
