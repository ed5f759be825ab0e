"""Documents are tokenised beside an event loop, not in it; a query is tokenised at once, where it came."""

import threading

QUERY, DOCUMENTS = ["what is MLX?"], ["a document of many words " * 20] * 8


async def test_documents_leave_the_event_loop_free(tiny, monkeypatch):
    threads = []
    real = tiny._path.encoder.encode

    def encode(*arguments):
        threads.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(tiny._path.encoder, "encode", encode)
    await tiny.aencode_query(QUERY)
    assert threads == [threading.current_thread()]
    await tiny.aencode_document(DOCUMENTS)
    assert threading.current_thread() not in threads[1:]
    threads.clear()
    tiny.encode_document(DOCUMENTS)  # who waits anyhow does it himself
    assert threads == [threading.current_thread()]
