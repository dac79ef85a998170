"""Fixed lines of an answer's head, HTTP/1.1. PURE."""

REASONS = {
    200: b"OK",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
CHUNKED = b"Transfer-Encoding: chunked\r\nCache-Control: no-cache\r\n"
UNTIL_CLOSE = b"Cache-Control: no-cache\r\n"  # HTTP/1.0 knows no chunks
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
LAST_CHUNK = b"0\r\n\r\n"
