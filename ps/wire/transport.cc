#include "ps/wire/transport.h"

#include <utility>

#include "ps/wire/inproc.h"
#include "ps/wire/zmq_network.h"

namespace gatemill::ps {
namespace {

enum class Scheme { kInproc, kSocket };

Result<Scheme> SchemeOf(const std::string& endpoint) {
  constexpr std::string_view kInprocPrefix = "inproc:";
  if (endpoint.starts_with(kInprocPrefix) && endpoint.size() > kInprocPrefix.size()) return Scheme::kInproc;
  if (endpoint.starts_with("ipc:///") || endpoint.starts_with("tcp://")) return Scheme::kSocket;
  return InvalidInput("\"" + endpoint +
                      "\" is no end point; write inproc:NAME, ipc:///path/of/socket or tcp://address:port");
}

class TransportImpl final : public Transport {
 public:
  explicit TransportImpl(std::unique_ptr<ZmqNetwork> sockets) : sockets_(std::move(sockets)) {}

  Result<std::unique_ptr<Listener>> Listen(const std::string& endpoint) override {
    GM_ASSIGN_OR_RETURN(const Scheme scheme, SchemeOf(endpoint));
    return scheme == Scheme::kInproc ? inproc_.Listen(endpoint) : sockets_->Listen(endpoint);
  }

  Result<std::unique_ptr<Channel>> Connect(const std::vector<std::string>& endpoints,
                                           const std::vector<std::string>& server_keys) override {
    if (endpoints.empty()) return InvalidInput("no end points to connect to");
    if (!server_keys.empty() && server_keys.size() != endpoints.size()) {
      return InvalidInput(std::to_string(endpoints.size()) + " end points, " + std::to_string(server_keys.size()) +
                          " server keys");
    }
    GM_ASSIGN_OR_RETURN(const Scheme first, SchemeOf(endpoints[0]));
    for (const std::string& endpoint : endpoints) {
      GM_ASSIGN_OR_RETURN(const Scheme scheme, SchemeOf(endpoint));
      if (scheme != first) return InvalidInput(endpoints[0] + " and " + endpoint + " are of different transports");
    }
    if (first == Scheme::kInproc) return inproc_.Connect(endpoints);
    return sockets_->Connect(endpoints, server_keys);
  }

  void Admit(std::vector<AdmittedKey> admitted) override { sockets_->Admit(std::move(admitted)); }

 private:
  InprocNetwork inproc_;
  std::unique_ptr<ZmqNetwork> sockets_;
};

}  // namespace

Result<CurveKeys> NewCurveKeys() { return NewZmqCurveKeys(); }

Result<std::unique_ptr<Transport>> Transport::Create(Options options) {
  if (options.keys.public_key.empty() != options.keys.secret_key.empty()) {
    return InvalidInput("a CURVE key pair has a public and a secret key; one of them is missing");
  }
  GM_ASSIGN_OR_RETURN(std::unique_ptr<ZmqNetwork> sockets, ZmqNetwork::Create(options));
  return std::unique_ptr<Transport>(std::make_unique<TransportImpl>(std::move(sockets)));
}

}  // namespace gatemill::ps
