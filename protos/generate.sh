#!/usr/bin/env bash
# Writes fedhe/wire/generated/ from protos/; needs grpcio-tools and mypy-protobuf (the `dev` extra).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
python -m grpc_tools.protoc -I protos --python_out="$out" --mypy_out="quiet:$out" --grpc_python_out="$out" protos/fedhe/v1/*.proto
target=${1:-fedhe/wire/generated}
mkdir -p "$target"
echo '"""Generated from protos/ by protos/generate.sh; do not edit."""' > "$target/__init__.py"
for file in "$out"/fedhe/v1/*; do
    sed -e 's/from fedhe\.v1 import/from fedhe.wire.generated import/' \
        -e 's/^import fedhe\.v1\./import fedhe.wire.generated./' -e 's/fedhe\.v1\.\([a-z]*_pb2\)/fedhe.wire.generated.\1/g' \
        "$file" > "$target/$(basename "$file")"
done
