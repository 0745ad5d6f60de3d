from collections.abc import Sequence
from dataclasses import dataclass

from trainwire_sinks import AppendSink, Event


@dataclass(frozen=True)
class Options:
    minimum: float = 0.0
    """Epochs that took less than this number of seconds are skipped."""


class EpochTimes(AppendSink):
    """Writes epoch-times.txt: how long each epoch took."""

    name = "epoch-times"
    file_name = "epoch-times.txt"
    options: Options = Options()

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Event(name="epoch/finished", value={"epoch": int(epoch), "seconds": float(seconds)}):
                    if seconds >= self.options.minimum:
                        await self.output.write(f"epoch {epoch}: {seconds:.1f} s\n")
