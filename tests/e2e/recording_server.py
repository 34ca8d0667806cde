"""Runs the real server program with a tap that writes every request, as it came off TLS, to a file."""

import os
import sys

import grpc.aio

real_server = grpc.aio.server
tap = open(os.environ["FEDHE_TEST_TAP"], "ab", buffering=0)  # noqa: PTH123, SIM115 - open for the process's life


class Recorder(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        if handler is None:
            return None

        def recording(data, parse=handler.request_deserializer):
            tap.write(details.method.encode() + b"\0" + data)
            return parse(data)

        return handler._replace(request_deserializer=recording)


def server(*arguments, interceptors=(), **options):
    return real_server(*arguments, interceptors=[Recorder(), *(interceptors or ())], **options)


if __name__ == "__main__":
    grpc.aio.server = server
    sys.argv[0] = "fedhe-server"
    from fedhe.cli.server import main

    main()
