"""Configuration of a mount: flags, environment and TOML files merged, checked and completed.

Three pure steps (``merge``, ``validate``, ``resolve``) stand between what people write and the ``MountConfig`` that
the worker gets; ``loading.load`` runs them with the files and the host read. Nothing here imports an engine, so that
``--help`` and shell completion are fast; and nothing is imported here, so that a worker, which is handed a finished
``model.MountConfig``, does without the rest.
"""
