"""A hand-written training loop that uses only the bus of Trainwire: python examples/plain_loop.py [RUN_FOLDER]"""

import sys

import torch
from torch import nn

import trainwire

EPOCHS, BATCH, LEARNING_RATE = 5, 64, 1e-2


def main(folder: str) -> None:
    torch.manual_seed(1)
    inputs = torch.rand(2048, 2)
    targets = (inputs[:, :1] * 7).sin() * inputs[:, 1:]
    train, dev = torch.arange(1792), torch.arange(1792, 2048)
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    with trainwire.open_bus(folder, hparams={"learning_rate": LEARNING_RATE, "batch": BATCH}) as bus:
        step, best = 0, ("dev/loss", float("inf"), 0)
        for epoch in range(1, EPOCHS + 1):
            bus.start_epoch(epoch, EPOCHS)
            for rows in train[torch.randperm(len(train))].split(BATCH):
                loss = nn.functional.mse_loss(model(inputs[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                bus.log({"train/loss": loss, "learning_rate": LEARNING_RATE}, step)  # tensors: without a sync
            dev_loss = nn.functional.mse_loss(model(inputs[dev]), targets[dev]).item()
            best = min(best, ("dev/loss", dev_loss, epoch))
            bus.finish_epoch(epoch, {"dev/loss": dev_loss}, best)  # writes a row of loss.tsv
    print(f"loss {loss:.4f}; to write TensorBoard's files: trainwire sink tensorboard {folder}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/plain-loop")
