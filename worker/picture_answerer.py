"""Answers lookups by pictures, each embedded by the model of the index that answers it (invariant 6)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from producer.messages import BatchReply, PictureLookup, Reply
from producer.reasons import Reason
from worker.desk import Unanswerable
from worker.embedding.errors import ModelError
from worker.lookup import Answerer, WrongModel
from worker.serving import Serving

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a question is embedded anew because an index of another model came in between."""


@dataclass(frozen=True)
class PictureAnswerer:
    """Has the network of each model that an index may be of. Safe to call from several threads."""

    answerer: Answerer
    serving: Serving

    def answer(self, question: PictureLookup) -> Reply | BatchReply:
        """The reply; raises ImageError, Unanswerable, DatabaseUnavailable."""
        trouble = ""
        for _ in range(ATTEMPTS):
            try:
                return self._answer(question, self.answerer.model_digest)
            except (WrongModel, ModelError) as error:
                log.info("question %s: %s", question.id, error)
                trouble = str(error)
        raise Unanswerable(Reason.UNAVAILABLE, trouble)

    def _answer(self, question: PictureLookup, digest: str | None) -> Reply | BatchReply:
        with self.serving.of(digest) as loaded:
            embed = loaded.embedder.embed_picture
            liked = [embed(image) for image in question.images]
            disliked = [embed(image) for image in question.disliked_images]
            return self.answerer.by_pictures(question, liked, disliked, loaded.model.digest)
