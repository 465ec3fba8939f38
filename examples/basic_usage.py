"""One call sets budgets up; after that no model call goes out that can't be paid for.

Runs without a key: the model is a small server on loopback. With OPENAI_API_KEY set, the same code asks OpenAI.
"""

from __future__ import annotations

import openai

import otelbudget
from otelbudget import BudgetExceeded, RunBudget
from otelbudget.demo.service import find_service


def main() -> None:
    otelbudget.setup(RunBudget(max_steps=3, max_tokens=2000), metrics_port=None)

    service = find_service()
    questions = ["What is a token bucket?", "What is backpressure?", "What is a lease?", "What is a trace?"]

    client = openai.OpenAI(base_url=service.base_url, api_key=service.api_key)
    with client, otelbudget.run(tenant="acme", reraise=False) as run:
        for question in questions:
            try:
                answer = client.chat.completions.create(
                    model=service.model, messages=[{"role": "user", "content": question}], max_completion_tokens=120
                )
            except BudgetExceeded as refusal:
                print(f"\n{question}\n  refused before it was sent: {refusal}")
            else:
                text = answer.choices[0].message.content or ""
                left = run.remaining()
                print(f"\n{question}\n  {text[:90]}...\n  left: {left['steps']} steps, {left['tokens']} tokens")

    print(f"\n{run.receipt()}")


if __name__ == "__main__":
    main()
