"""One progress bar for long work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(shown: bool, total: int, description: str, initial: int = 0) -> Iterator[Callable[..., None]]:
    """Yields `tick(n, **figures)`, to be called after n steps, 1 if left out; figures are shown beside the bar."""
    if not shown:
        yield lambda n=1, **figures: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description, initial=initial, dynamic_ncols=True) as bar:

        def tick(n: int = 1, **figures: str) -> None:
            if figures:
                bar.set_postfix(figures, refresh=False)
            bar.update(n)

        yield tick
