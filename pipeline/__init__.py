"""How data moves: the stages as Python functions, and the command line over them.

Each stage is a function of one module in ``pipeline.stages``, with the name of its subcommand::

    from pipeline.params import Params
    from pipeline.stages.ingest import ingest
    from pipeline.stages.preprocess import preprocess
    from pipeline.stages.train import train
    from pipeline.stages.evaluate import evaluate
"""
