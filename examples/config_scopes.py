"""Scoped configuration that can say why.

Run it, and try: ``python examples/config_scopes.py model.big data.lr=0.5``, ``manual``, ``model.depht=3``.
"""

import sys

from sweep.config import MultiScope, Scope, diff

model_scope = Scope(name="model")
data_scope = Scope(name="data")
scope = MultiScope(model_scope, data_scope)


@model_scope.observe(default=True)
def small(model):
    model.backbone = "resnet50"
    model.depth = 50
    with Scope.lazy():  # runs after the command line has been read
        model.name = f"{model.backbone}-{model.depth}"


@model_scope.observe(priority=1)
def big(model):
    model.backbone = "resnet101"
    model.depth = 101


@data_scope.observe(default=True)
def cifar(data):
    data.dataset = "cifar10"
    data.lr = 0.001  # has nothing to do with the model's keys
    data.workers = 4


@model_scope.manual
def docs(model):
    model.depth = "Number of layers"


@scope
def train(model, data):
    print(f"training {model.name} on {data.dataset} with lr={data.lr}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        scope.parse("big model.depth=152 data.lr=1e-2")  # what a command line would say
    train()
    print(scope.why("model.depth"))
    print("differs from the defaults:", *diff(scope.resolve([]), scope), sep="\n  ")
    print("set but never read:", ", ".join(scope.unread()))
