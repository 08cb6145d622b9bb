#include "common/config_environment.h"

#include <cstdlib>

namespace gatemill {

Result<std::string> ReplaceEnvironment(const std::string& text) {
  std::string out;
  std::size_t at = 0;
  while (true) {
    const std::size_t open = text.find("${", at);
    if (open == std::string::npos) return out + text.substr(at);
    const std::size_t close = text.find('}', open);
    if (close == std::string::npos) return InvalidInput("\"" + text + "\" has a ${ without its }; close it");
    out += text.substr(at, open - at);
    const std::string inside = text.substr(open + 2, close - open - 2);
    const std::size_t dash = inside.find(":-");
    const std::string name = inside.substr(0, dash);
    const char* value = std::getenv(name.c_str());
    if (value != nullptr && *value != '\0') {
      out += value;
    } else if (dash != std::string::npos) {
      out += inside.substr(dash + 2);
    } else {
      return InvalidInput("the environment variable " + name + " is not set; set it or write ${" + name + ":-default}");
    }
    at = close + 1;
  }
}

}  // namespace gatemill
