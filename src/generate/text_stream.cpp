#include "text_stream.hpp"

#include <algorithm>

#include "llmft/base/text.hpp"

namespace llmft {
namespace {

constexpr size_t kWindow = 16;  // tokens that a sentencepiece token's text may depend on, generously

// Bytes that a character starting with this one has; 0: none starts so.
size_t character_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  if (lead >= 0xf0 && lead < 0xf5) return 4;
  return 0;
}

// The bytes are a proper prefix of some valid character.
bool may_become_character(std::string_view bytes) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  if (bytes.empty() || bytes.size() >= character_length(byte(0))) return false;
  if (bytes.size() > 1) {
    unsigned first = byte(0), second = byte(1);
    unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (second < low || second > high) return false;
  }
  return std::all_of(bytes.begin() + 1, bytes.end(),
                     [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; });
}

enum class More { may_come, none };

// Takes whole characters off the front. What cannot become one is U+FFFD, one for each longest start of a
// character, as Unicode recommends and Python does.
std::string take_characters(std::string& bytes, More more) {
  std::string out;
  size_t at = 0;
  while (at < bytes.size()) {
    std::string_view rest = std::string_view(bytes).substr(at);
    size_t valid = valid_utf8_prefix(rest);
    out += rest.substr(0, valid);
    at += valid;
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    if (more == More::may_come && may_become_character(rest)) break;
    size_t bad = 1;
    while (bad < rest.size() && may_become_character(rest.substr(0, bad + 1))) ++bad;
    out += "\xef\xbf\xbd";
    at += bad;
  }
  bytes.erase(0, at);
  return out;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const std::string> stops)
    : tokenizer_(&tokenizer), by_token_(tokenizer.kind() != "sentencepiece") {
  for (const std::string& stop : stops)
    if (!stop.empty()) stops_.push_back(stop);
  for (const auto& [name, id] : tokenizer.special_tokens()) special_.push_back(id);
  std::sort(special_.begin(), special_.end());
}

std::string TextStream::bytes_of(TokenId token) {
  if (std::binary_search(special_.begin(), special_.end(), token)) return "";
  if (by_token_) return tokenizer_->decode(std::span(&token, 1));
  if (window_.size() == kWindow) window_.erase(window_.begin(), window_.begin() + kWindow / 2);
  std::string before = tokenizer_->decode(window_);
  window_.push_back(token);
  std::string after = tokenizer_->decode(window_);
  return after.starts_with(before) ? after.substr(before.size()) : after;
}

// held_ without its longest end that is the start of a stop string; cut at a stop string.
std::string TextStream::certain() {
  size_t found = std::string::npos;
  for (const std::string& stop : stops_) found = std::min(found, held_.find(stop));
  if (found != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, found);
    held_.clear();
    return out;
  }
  size_t keep = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) keep = n;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string TextStream::push(TokenId token) {
  if (stopped_) return "";
  bytes_ += bytes_of(token);
  held_ += take_characters(bytes_, More::may_come);
  return certain();
}

std::string TextStream::finish() {
  if (stopped_) return "";
  held_ += take_characters(bytes_, More::none);
  std::string out = certain();  // U+FFFD may be in a stop string
  if (stopped_) return out;
  out += held_;
  held_.clear();
  return out;
}

}  // namespace llmft
