"""How embedding tables are stored, looked up and updated; what a model is does not depend on it.

Every store gives the same numbers under the same names, so a checkpoint made with one is read by
any other:

* ``plain``: ``nn.Embedding`` with sparse gradients and torch's optimizers;
* ``compiled``: the same table, its gradient and its optimizer step in compiled loops over the rows
  of the batch; on CPU, in memory or in a memory-mapped file;
* ``fused``: FBGEMM's table, whose backward pass is its optimizer step; on GPU and CPU.
"""
