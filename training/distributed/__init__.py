"""Training over several processes: ``torchrun`` starts them, each has a slice of every batch.

* ``ranks``: the processes, what they tell each other, and how they end together;
* ``kernel``, ``sharded``: embedding tables, sharded by TorchRec;
* ``transfer``: shards → the whole tables that a checkpoint holds, and back;
* ``parallel``: a model over all processes: its loss, its optimizers, its state.

The figures are those of one process with the same batches.
"""
