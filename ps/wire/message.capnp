# The headers of gatemill's messages. A message on a socket is one header and the raw bytes of its parts beside it:
# for every part in order its keys, rows, found and headers, each as a frame of its own; empty ones are left out.
# ps/wire/message.h says what the fields mean, ps/wire/codec.h what is checked.
@0x99002c0fea32a0c9;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("gatemill::ps::schema");

struct Part {
  table @0 :UInt32;
  dtype @1 :UInt8;  # of rows, little-endian: 0 = IEEE float32, 1 = IEEE float16, 2 = bfloat16
  count @2 :UInt64;
  keysBytes @3 :UInt64;
  rowsBytes @4 :UInt64;
  foundBytes @5 :UInt64;
  headersBytes @6 :UInt64;
  wantFound @7 :Bool;
  onlySeen @8 :Bool;
}

struct RequestHeader {
  version @0 :UInt32;  # version, op, id and job stay where they are in every version, so that any version can be answered
  op @1 :UInt16;
  id @2 :UInt64;
  job @3 :UInt64;
  incarnation @4 :UInt32;
  worker @5 :UInt32;
  step @6 :UInt64;
  mode @7 :UInt8;
  text @8 :Text;
  parts @9 :List(Part);
  day @10 :UInt32;
}

struct ReplyHeader {
  version @0 :UInt32;
  op @1 :UInt16;
  id @2 :UInt64;
  shard @3 :UInt32;
  code @4 :UInt8;
  error @5 :Text;
  text @6 :Text;
  parts @7 :List(Part);
}
