"""A minimal server of the classifier in the folder `model`, without authentication, limits or logging.

pip install fastapi uvicorn
uvicorn server:app
curl --data-binary @xray.jpeg -H "Content-Type: application/octet-stream" http://127.0.0.1:8000/predict
"""

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException

from xraytune.data.decoding import BrokenImage, decode_files
from xraytune.trial.saved_model import open_bundle

model, app = open_bundle(Path("model")).predictor(), FastAPI()
input_format, names = model.record.input_format, model.record.class_names


@app.post("/predict")
def predict(
    image: Annotated[bytes, Body(media_type="application/octet-stream")],
) -> dict[str, float]:
    """Return the probability of each class; status 422 if the image is broken."""
    with NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(image)
        (square,) = decode_files(
            path.parent, [path.name], input_format.image_size_px, input_format.resize
        )
    if isinstance(square, BrokenImage):
        raise HTTPException(422, square.reason)
    return dict(zip(names, model.run(square.pixels[None].copy())[0].tolist(), strict=True))
