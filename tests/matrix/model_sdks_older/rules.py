"""The same with the SDKs as they were, which some frameworks and instrumentations still want."""

from model_sdks.rules import *  # noqa: F403
