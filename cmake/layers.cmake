# llmft_layer(NAME DEPENDS layers... LIBRARIES packages...): the static library llmft_NAME from src/NAME/. Sources in a
# folder cuda/ belong to builds with a CUDA Toolkit, those in nocuda/ to builds without: no #if in the program.
# The list below is the direction of the program, low to high; a layer may use only what its line names.
function(llmft_layer name)
  cmake_parse_arguments(L "" "" "DEPENDS;LIBRARIES" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp ${CMAKE_SOURCE_DIR}/src/${name}/*.cu)
  if(LLMFT_HAVE_CUDA)
    list(FILTER sources EXCLUDE REGEX "/nocuda/")
  else()
    list(FILTER sources EXCLUDE REGEX "/cuda/")
  endif()
  # Files in a folder sm90a/ use instructions of that one chip: they are built for it alone.
  set(hopper_sources ${sources})
  list(FILTER hopper_sources INCLUDE REGEX "/sm90a/")
  list(FILTER sources EXCLUDE REGEX "/sm90a/")
  if(hopper_sources)
    add_library(llmft_${name}_sm90a OBJECT ${hopper_sources})
    set_target_properties(llmft_${name}_sm90a PROPERTIES CUDA_ARCHITECTURES 90a-real)
    target_include_directories(llmft_${name}_sm90a PRIVATE ${CMAKE_SOURCE_DIR}/include)
    target_link_libraries(llmft_${name}_sm90a PRIVATE llmft_flags)
    target_include_directories(llmft_${name}_sm90a PRIVATE ${CMAKE_SOURCE_DIR}/include)
    list(APPEND sources $<TARGET_OBJECTS:llmft_${name}_sm90a>)
  endif()
  add_library(llmft_${name} STATIC ${sources})
  target_include_directories(llmft_${name} PUBLIC ${CMAKE_SOURCE_DIR}/include)
  target_link_libraries(llmft_${name} PUBLIC llmft_flags fmt::fmt)
  foreach(dep ${L_DEPENDS})
    target_link_libraries(llmft_${name} PUBLIC llmft_${dep})
  endforeach()
  target_link_libraries(llmft_${name} PRIVATE ${L_LIBRARIES})
endfunction()

llmft_layer(base LIBRARIES PkgConfig::XXHASH)
llmft_layer(config DEPENDS base LIBRARIES yaml-cpp::yaml-cpp)
llmft_layer(tensor DEPENDS base)
llmft_layer(device DEPENDS tensor)
llmft_layer(comm DEPENDS device LIBRARIES MPI::MPI_C)
llmft_layer(ops DEPENDS device LIBRARIES PkgConfig::OPENBLAS)
llmft_layer(precision DEPENDS ops)
llmft_layer(nn DEPENDS precision)
llmft_layer(model DEPENDS nn config LIBRARIES nlohmann_json::nlohmann_json)
llmft_layer(parallel DEPENDS model comm)
llmft_layer(optim DEPENDS parallel)
llmft_layer(tokenizer DEPENDS base LIBRARIES PkgConfig::SENTENCEPIECE PkgConfig::PCRE2 nlohmann_json::nlohmann_json)
llmft_layer(data DEPENDS config comm tokenizer LIBRARIES llmft_hdf5 llmft_arrow ZLIB::ZLIB PkgConfig::ZSTD llmft_rapidjson nlohmann_json::nlohmann_json)
llmft_layer(generate DEPENDS parallel tokenizer LIBRARIES nlohmann_json::nlohmann_json)
llmft_layer(report DEPENDS config tensor LIBRARIES nlohmann_json::nlohmann_json ${CMAKE_DL_LIBS})
llmft_layer(train DEPENDS optim data report LIBRARIES nlohmann_json::nlohmann_json)
llmft_layer(serve DEPENDS data generate LIBRARIES Boost::headers Threads::Threads nlohmann_json::nlohmann_json)
llmft_layer(eval DEPENDS generate data report LIBRARIES nlohmann_json::nlohmann_json)
llmft_layer(cli DEPENDS train eval serve LIBRARIES nlohmann_json::nlohmann_json MPI::MPI_C)
# The chat page is part of the program.
file(GLOB page_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/serve/page/*)
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/page_files.cpp
                   COMMAND ${CMAKE_COMMAND} -DFOLDER=${CMAKE_SOURCE_DIR}/src/serve/page -DOUTPUT=${CMAKE_BINARY_DIR}/page_files.cpp
                           -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
                   DEPENDS ${page_files} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
target_sources(llmft_serve PRIVATE ${CMAKE_BINARY_DIR}/page_files.cpp)
target_include_directories(llmft_serve PRIVATE ${CMAKE_SOURCE_DIR}/src/serve)
if(LLMFT_HAVE_CUDA)
  target_link_libraries(llmft_device PRIVATE CUDA::cudart_static)
  target_link_libraries(llmft_comm PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
  target_include_directories(llmft_comm SYSTEM PRIVATE ${NCCL_INCLUDE})
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/comm/cuda/nccl_api.cpp PROPERTIES COMPILE_DEFINITIONS
                              "LLMFT_NCCL_LIBRARY=\"${NCCL_LIBRARY}\"")
  target_link_libraries(llmft_ops PRIVATE CUDA::cudart_static CUDA::cublasLt llmft_cudnn)
endif()
# Open MPI's C++ bindings are not used; without this its header asks for libmpi_cxx, which newer versions lack.
target_compile_definitions(llmft_comm PRIVATE OMPI_SKIP_MPICXX=1 MPICH_SKIP_MPICXX=1)

# What run.json and 'llmft info' call this build: CMake runs again when the commit is another.
execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} rev-parse --path-format=absolute --git-path logs/HEAD
                OUTPUT_VARIABLE git_log OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(EXISTS "${git_log}")
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${git_log})
endif()
execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} rev-parse --short HEAD OUTPUT_VARIABLE git_commit
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/report/machine.cpp PROPERTIES COMPILE_DEFINITIONS
                            "LLMFT_VERSION=\"${PROJECT_VERSION}\";LLMFT_GIT=\"${git_commit}\"")
if(LLMFT_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # a false alarm in Beast's parser
  target_compile_options(llmft_serve PRIVATE -Wno-maybe-uninitialized)
endif()
