"""The wire: generated protobuf code, limits, chunks; the only importer of generated code."""

from fedhe.wire.generated import admin_pb2 as admin
from fedhe.wire.generated import federation_pb2 as federation
from fedhe.wire.generated.admin_pb2_grpc import AdminServicer, AdminStub, add_AdminServicer_to_server
from fedhe.wire.generated.federation_pb2_grpc import (
    FederationServicer,
    FederationStub,
    add_FederationServicer_to_server,
)

__all__ = [
    "AdminServicer",
    "AdminStub",
    "FederationServicer",
    "FederationStub",
    "add_AdminServicer_to_server",
    "add_FederationServicer_to_server",
    "admin",
    "federation",
]
