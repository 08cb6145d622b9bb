// The in-process transport: requests and replies move through bounded queues as values, nothing is serialized.
//
// A network is the set of names that listeners and channels of one Transport find each other by; there is no other
// registry. Listeners, channels and network may go in any order. Thread safety: as Listener and Channel; the network's
// own members may be called from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/wire/transport.h"

namespace gatemill::ps {

class InprocNetwork {
 public:
  InprocNetwork();
  // kInvalidInput when the name is taken.
  Result<std::unique_ptr<Listener>> Listen(const std::string& endpoint);
  std::unique_ptr<Channel> Connect(const std::vector<std::string>& endpoints);

  struct Names;

 private:
  std::shared_ptr<Names> names_;
};

}  // namespace gatemill::ps
