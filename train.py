"""Train a codec: python train.py +recipe=NAME data.root=FOLDER."""

from codec.train.app import main

if __name__ == "__main__":
    raise SystemExit(main())
