// Who may speak over CURVE: ZeroMQ asks this handler (ZAP, RFC 27) for every connection before its first message.
//
// A listed key is let in, and what it stands for travels as the connection's user id. Any other key is turned away
// without an answer; it may try again, so a peer that connects before it is listed gets in once it is.
//
// Thread safety: Admit from any thread. The handler runs on a thread of its own, stopped by the destructor.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/wire/transport.h"

namespace zmq {
class context_t;
}

namespace gatemill::ps {

// What an admitted key stands for, as the text that ZeroMQ hands to every message of its connection.
std::string UserIdOf(const AdmittedKey& key);
// Nothing when the text is none of UserIdOf's. The peer's route is not set.
std::optional<Peer> PeerOfUserId(const std::string& user_id);

class ZapHandler {
 public:
  // Must be started before the first CURVE connection of `context`.
  static Result<std::unique_ptr<ZapHandler>> Start(std::shared_ptr<zmq::context_t> context,
                                                   std::vector<AdmittedKey> admitted);
  virtual ~ZapHandler() = default;
  virtual void Admit(std::vector<AdmittedKey> admitted) = 0;
};

}  // namespace gatemill::ps
