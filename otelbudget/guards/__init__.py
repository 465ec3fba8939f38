"""Guards: what stops a model call at the choke point of a provider's SDK, before anything is sent.

A guard sees the whole request (model, messages, maximum), holds what it can cost, lets it go or raises
`BudgetExceeded`, and charges what the answer or the stream says it used. It works without any tracing.

To add an SDK:

1. Made by the generator Stainless (it has ``_base_client.SyncAPIClient``), Speakeasy (``basesdk.BaseSDK``) or Fern
   (``core.http_client``), it is one row in `sdks`. For another mechanism, write a module after `stainless`, or after
   `ollama` if its answers are read by the SDK, with a `guard.SdkGuard` that takes over the SDK's functions, and a
   `call.Wire` that reads its requests; `call` has them admitted and settled, `exchange` notes their attempts,
   `watch.Watch` follows answers that are read later.
2. If it speaks a wire format of its own, write a file in `dialects`, whose docstring says what it has.
3. Name the instrumentation scopes of the SDK in `spans.conventions`, so that their spans are not charged a second time,
   and give the SDK a row in ``tests/matrix/model_sdks``.
"""

from __future__ import annotations

from typing import Final

from otelbudget.guards.bedrock import AioBedrockGuard, BedrockGuard
from otelbudget.guards.dspy import DspyGuard
from otelbudget.guards.fern import FernGuard
from otelbudget.guards.google import GoogleGuard
from otelbudget.guards.guard import SdkGuard
from otelbudget.guards.litellm import LitellmGuard
from otelbudget.guards.ollama import OllamaGuard
from otelbudget.guards.sdks import AIOBEDROCK, BEDROCK, DSPY, FERN, GOOGLE, KNOWN, LITELLM, OLLAMA, SPEAKEASY, STAINLESS
from otelbudget.guards.speakeasy import SpeakeasyGuard
from otelbudget.guards.stainless import StainlessGuard

#: SDK, as `spans.conventions.covered_sdk` names it -> its guard.
GUARDS: Final[dict[str, SdkGuard]] = {
    **{sdk.name: StainlessGuard(sdk) for sdk in STAINLESS},
    **{sdk.name: SpeakeasyGuard(sdk) for sdk in SPEAKEASY},
    **{sdk.name: FernGuard(sdk) for sdk in FERN},
    GOOGLE.name: GoogleGuard(GOOGLE),
    BEDROCK.name: BedrockGuard(BEDROCK),
    AIOBEDROCK.name: AioBedrockGuard(AIOBEDROCK),
    DSPY.name: DspyGuard(DSPY),
    LITELLM.name: LitellmGuard(LITELLM),
    OLLAMA.name: OllamaGuard(OLLAMA),
}


def unguarded() -> list[str]:
    """The modules of SDKs that call models and have no guard."""
    guarded = [f"{guard.module}." for guard in GUARDS.values()]
    return [name for name in KNOWN if not any(one.startswith(f"{name}.") for one in guarded)]
