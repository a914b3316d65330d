package agentlink

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -modfile=../../tools/go.mod -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -modfile=../../tools/go.mod -n protoc-gen-go-grpc) --go_out=linkpb --go_opt=paths=source_relative --go-grpc_out=linkpb --go-grpc_opt=paths=source_relative agentlink.proto"
