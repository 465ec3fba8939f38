"""Every telemetry name that otelbudget writes or reads, once.

The GenAI names follow the OpenTelemetry semantic conventions for generative AI (registry ``gen_ai``, status
development); other dialects seen in the wild (older semconv, OpenLLMetry, OpenInference) are only read. No standard
names exist for budgets, so ours start with ``otelbudget.``.
"""

from __future__ import annotations

from typing import Final

# --- spans we open
RUN_SPAN: Final = "otelbudget.run"
RECORD_SPAN: Final = "otelbudget.record"

# --- span events
EVENT_CHECK: Final = "otelbudget.check"
EVENT_RECORD: Final = "otelbudget.record"
EVENT_THRESHOLD: Final = "otelbudget.threshold"
EVENT_EXTEND: Final = "otelbudget.extend"
EVENT_FREEZE: Final = "otelbudget.freeze"
EVENT_RESET: Final = "otelbudget.reset"
EVENT_RELEASE: Final = "otelbudget.release"
EVENT_STREAM_CUT: Final = "otelbudget.stream_cut"
EVENT_STORE_ERROR: Final = "otelbudget.store_error"

# --- our attributes, on events and spans
RUN_ID: Final = "otelbudget.run.id"
TENANT: Final = "otelbudget.tenant"
USER: Final = "otelbudget.user"
BUDGET: Final = "otelbudget.budget"
SCOPE: Final = "otelbudget.scope"
DECISION: Final = "otelbudget.decision"
REASON: Final = "otelbudget.reason"
RESOURCE: Final = "otelbudget.resource"
REMAINING: Final = "otelbudget.remaining"
USED: Final = "otelbudget.used"
LIMIT: Final = "otelbudget.limit"
RATIO: Final = "otelbudget.ratio"
TOKENS_INPUT: Final = "otelbudget.tokens.input"
TOKENS_OUTPUT: Final = "otelbudget.tokens.output"
COST_USD: Final = "otelbudget.cost.usd"
ESTIMATED: Final = "otelbudget.estimated"
OUTCOME: Final = "otelbudget.outcome"
OLD: Final = "otelbudget.old"
NEW: Final = "otelbudget.new"
ACTOR: Final = "otelbudget.actor"
LATE: Final = "otelbudget.late"
WRAP_UP: Final = "otelbudget.wrap_up"
EVENTS_SUPPRESSED: Final = "otelbudget.events.suppressed"
USED_PREFIX: Final = "otelbudget.used."
USED_DIRECT_PREFIX: Final = "otelbudget.used.direct."
LIMIT_PREFIX: Final = "otelbudget.limit."

# --- GenAI conventions: written on spans that a guard opens, read everywhere
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"
GEN_AI_REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"

# --- Prometheus (the collector of prometheus_client and the OTel instruments use the same names)
M_CHECKS: Final = "otelbudget_checks_total"
M_RECORDS: Final = "otelbudget_records_total"
M_TOKENS: Final = "otelbudget_tokens_total"
M_TOKEN_DETAILS: Final = "otelbudget_token_details_total"
M_COST: Final = "otelbudget_cost_usd_total"
M_TOOL_CALLS: Final = "otelbudget_tool_calls_total"
M_RUN_COST: Final = "otelbudget_run_cost_usd"
M_RUN_TOKENS: Final = "otelbudget_run_tokens"
M_RUN_DURATION: Final = "otelbudget_run_duration_seconds"
M_RUNS_ACTIVE: Final = "otelbudget_runs_active"
M_ACTIVE_RUN_COST: Final = "otelbudget_active_run_cost_usd"
M_ACTIVE_RUN_RATIO: Final = "otelbudget_active_run_used_ratio"
M_CHECK_DURATION: Final = "otelbudget_check_duration_seconds"
M_RESERVATIONS_OPEN: Final = "otelbudget_reservations_open"
M_RESERVATION_OLDEST: Final = "otelbudget_reservation_oldest_seconds"
M_ESTIMATE_RATIO: Final = "otelbudget_estimate_ratio"
M_LABEL_OVERFLOW: Final = "otelbudget_label_overflow_total"
M_EVENTS_SUPPRESSED: Final = "otelbudget_span_events_suppressed_total"
M_UNPRICED: Final = "otelbudget_unpriced_total"
M_BUILD_INFO: Final = "otelbudget_build_info"
