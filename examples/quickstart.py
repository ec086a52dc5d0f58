"""Tune a small torch network on scikit-learn's digits: early stopping, child processes, resumable.

Run it, kill it (Ctrl-C or kill -9), run it again: it goes on where it stopped.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from sweep import Choice, Context, Integer, LogUniform, SweepExperiment, Uniform
from sweep.optimizers import OptunaOptimizer
from sweep.schedulers import ASHAScheduler

EPOCHS = 27

X, Y = load_digits(return_X_y=True)
SPLIT = train_test_split(
    torch.tensor(X / 16, dtype=torch.float32), torch.tensor(Y), test_size=0.3, random_state=0, stratify=Y
)


def train(lr: float, width: int, depth: int, dropout: float, batch_size: int, algorithm: str, ctx: Context) -> None:
    """Train one network; report its validation loss and accuracy after each epoch."""
    torch.manual_seed(ctx.seed)
    train_x, test_x, train_y, test_y = SPLIT
    layers, size = [], 64
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        size = width
    model = nn.Sequential(*layers, nn.Linear(size, 10))
    optimizer = getattr(torch.optim, algorithm)(model.parameters(), lr=lr)
    saved = ctx.load()  # after a crash or a promotion: the state of the last epoch reported
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for epoch in range(ctx.step + 1, EPOCHS + 1):
        model.train()
        for batch in torch.randperm(len(train_x)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train_x[batch]), train_y[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            output = model(test_x)
        ctx.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        loss = nn.functional.cross_entropy(output, test_y).item()
        ctx.report(epoch, val_loss=loss, accuracy=(output.argmax(1) == test_y).float().mean().item())


sweep = SweepExperiment(
    train,
    {
        "lr": LogUniform(1e-4, 1e-1),
        "width": Integer(16, 256),
        "depth": Integer(1, 3),
        "dropout": Uniform(0.0, 0.5),
        "batch_size": Choice([16, 32, 64, 128]),
        "algorithm": Choice(["SGD", "Adam", "RMSprop"]),
    },
    optimizer=OptunaOptimizer(),  # swap it: RandomOptimizer(), BayesianOptimizer(), GridOptimizer() …
    scheduler=ASHAScheduler(max_epochs=EPOCHS),  # swap it: BatchScheduler(), HyperbandScheduler(EPOCHS) …
    metric="val_loss",
    executor="process",
    workers=2,
    name="digits",
)

if __name__ == "__main__":
    result = sweep.run(budget=40)
    print(result.summary())
    print(f"best accuracy {result.best_trial.metrics['accuracy']:.3f}; kept in {result.store}; look around with")
    print(f"  sweep show {result.path}    sweep logs {result.path}/trial[{result.best_trial.number}]    sweep ls")
