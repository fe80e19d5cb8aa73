"""Two kinds of users of one's own, for `workload.locustfile`: what a scenario's load may look like as Locust code.

`self.environment.dyno` is there under `dyno tune` only; `context={"dyno": note}` ties what is noted to the request.
"""

from locust import FastHttpUser, between, task


class Reader(FastHttpUser):
    """Asks, reads the answer for a while, asks again."""

    weight = 3
    wait_time = between(0.02, 0.06)

    @task
    def ask(self) -> None:
        """One prompt of the scenario, with the tokens that the server counted."""
        dyno = self.environment.dyno
        prompt = dyno.next_prompt()
        note = dyno.note(prompt)
        with self.client.post(dyno.path, json=dyno.body(prompt), catch_response=True, context={"dyno": note}) as answer:
            if answer.status_code == 200:
                note.answer = answer.json()["generated_text"]
                note.output_tokens = int(answer.headers["x-dyno-tokens"])


class Impatient(Reader):
    """Asks without a pause."""

    weight = 1
    wait_time = between(0.0, 0.0)
