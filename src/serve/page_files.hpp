// The page's files, compiled in from src/serve/page by CMake.
#pragma once

#include <span>
#include <string_view>

namespace llmft {

struct PageFile {
  std::string_view name;  // "app.js"
  std::string_view type;  // "text/javascript; charset=utf-8"
  std::string_view content;
};
std::span<const PageFile> page_files();

}  // namespace llmft
