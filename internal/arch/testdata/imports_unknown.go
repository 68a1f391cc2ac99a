package bad

import _ "github.com/holdfast-go/holdfast/transport" // want: util may not import github.com/holdfast-go/holdfast/transport: the folder has no room in the house: add it to rooms
