#!/bin/sh
# Regenerates the Go code of signer.proto. Needs Debian's protoc
# (protobuf-compiler); the two plugins are pinned in go.mod. The comment with
# protoc's own version is made neutral, so that another protoc gives no diff.
set -eu
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
for tool in protoc-gen-go protoc-gen-go-grpc; do
	printf '#!/bin/sh\nexec go tool %s "$@"\n' "$tool" >"$bin/$tool"
	chmod +x "$bin/$tool"
done
protoc \
	--plugin=protoc-gen-go="$bin/protoc-gen-go" \
	--plugin=protoc-gen-go-grpc="$bin/protoc-gen-go-grpc" \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	proto/signer.proto
sed -i -E 's,^(// [-	]* ?protoc +)\(?v?[0-9.]+.*$,\1(any version),' proto/signer.pb.go proto/signer_grpc.pb.go
