// The socket transports, ipc and tcp, over ZeroMQ: a ROUTER for each listener, a DEALER for each shard of a channel.
//
// A message is [header][frame]... as ps/wire/codec.h makes it. Owned frames of at least a few KiB are sent without a
// copy, borrowed ones are copied; frames that come in stay in ZeroMQ's memory for as long as a Frame refers to them.
// With keys, tcp uses CURVE (ps/wire/zap.h says who is let in); ipc does not, its directory is private.
//
// Thread safety: Listen, Connect and Admit may be called from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/wire/transport.h"

namespace gatemill::ps {

class ZmqNetwork {
 public:
  static Result<std::unique_ptr<ZmqNetwork>> Create(const Transport::Options& options);
  virtual ~ZmqNetwork() = default;
  virtual Result<std::unique_ptr<Listener>> Listen(const std::string& endpoint) = 0;
  virtual Result<std::unique_ptr<Channel>> Connect(const std::vector<std::string>& endpoints,
                                                   const std::vector<std::string>& server_keys) = 0;
  virtual void Admit(std::vector<AdmittedKey> admitted) = 0;
};

Result<CurveKeys> NewZmqCurveKeys();

}  // namespace gatemill::ps
