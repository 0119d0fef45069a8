#include "access.hpp"

#include <algorithm>

#include <boost/asio/ip/address.hpp>
#include <fmt/format.h>

#include "api_error.hpp"
#include "ascii_case.hpp"
#include "llmft/serve/service.hpp"

namespace llmft {
namespace {

std::string_view without_port(std::string_view authority) {
  if (authority.starts_with("[")) return authority.substr(0, authority.find(']') + 1);
  return authority.substr(0, authority.find(':'));
}

}  // namespace

bool is_loopback(std::string_view host) {
  if (host.starts_with("[") && host.ends_with("]")) host = host.substr(1, host.size() - 2);
  boost::system::error_code ec;
  auto address = boost::asio::ip::make_address(std::string(host), ec);
  return ec ? equal_ignoring_case(host, "localhost") : address.is_loopback();
}

bool equal_in_constant_time(std::string_view given, std::string_view secret) {
  volatile size_t difference = given.size() ^ secret.size();
  for (size_t i = 0; i < given.size(); ++i) {
    auto expected = secret.empty() ? 0 : static_cast<unsigned char>(secret[i % secret.size()]);
    difference = difference | static_cast<size_t>(static_cast<unsigned char>(given[i]) ^ expected);
  }
  return difference == 0;
}

Access::Access(const std::string& host, std::vector<std::string> allowed_hosts, std::string api_key)
    : loopback_(is_loopback(host)), allowed_hosts_(std::move(allowed_hosts)), api_key_(std::move(api_key)) {}

void Access::check(const HttpRequest& request) const {
  std::string_view authority = request.header("host");
  std::string_view name = without_port(authority);
  if (loopback_ && !name.empty() && !is_loopback(name) &&
      std::ranges::none_of(allowed_hosts_, [&](auto& allowed) { return equal_ignoring_case(allowed, name); }))
    throw ApiError(
        403,
        fmt::format("this server listens on loopback and is asked for as '{}'; use localhost, or start it "
                    "with --serve.allowed_hosts={}",
                    name, name));
  std::string_view origin = request.header("origin");
  size_t scheme = origin.find("://");
  if (!origin.empty() && (scheme == std::string_view::npos || origin.substr(scheme + 3) != authority))
    throw ApiError(403, fmt::format("a page of {} may not use this server", origin));
  bool open = !request.path.starts_with("/v1/") && request.path != "/metrics";
  if (api_key_.empty() || open) return;
  std::string_view given = request.header("authorization");
  constexpr std::string_view kBearer = "Bearer ";
  given = equal_ignoring_case(given.substr(0, kBearer.size()), kBearer) ? given.substr(kBearer.size())
                                                                        : std::string_view();
  if (!equal_in_constant_time(given, api_key_))
    throw ApiError(401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", "",
                   "invalid_api_key");
}

}  // namespace llmft
